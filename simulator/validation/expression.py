"""Expressions over the columns of a row, as a mapping of measured points states them.

Whole numbers, fractions and 'texts'; ``+ - * / // %``; ``== != < <= > >= in``; ``and or not``; ``min max ceil isqrt``.
A name is a column, or a name that the mapping defines. Nothing else of a programming language is understood, so that a
mapping from elsewhere can be read without harm.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass

Value = int | float | str | bool
Values = Mapping[str, Value]

_MOST_CHARACTERS: Final = 500
_LARGEST: Final = 1e18  # of any result: products of cells stay small numbers
_ARITHMETIC: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "isqrt": lambda value: math.isqrt(int(value)),
}
_HINT: Final = "numbers, 'texts', columns, + - * / // %, comparisons, in, and, or, not, min, max, ceil, isqrt"
_FIELD: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression, parsed and checked; ``names`` are the columns and names it needs."""

    text: str
    tree: ast.expr
    names: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> "Expression":
        """Read an expression; raises ``ValueError`` with what is not understood."""
        if len(text) > _MOST_CHARACTERS:
            raise ValueError(f"{shown(text)} has {len(text)} characters, at most {_MOST_CHARACTERS} are read")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{shown(text)} is no expression ({_HINT})") from error
        return cls(text, tree, frozenset(_names(tree, text)))

    def of(self, values: Values) -> Value:
        """Return the value for a row; raises ``UserError`` where its cells do not allow it."""
        try:
            found: Value = _evaluate(self.tree, values)
        except (TypeError, ValueError, ArithmeticError) as error:
            needed = ", ".join(f"{name} = {shown(values[name])}" for name in sorted(self.names))
            raise UserError(f"{shown(self.text)} has no value where {needed}", hint=f"{error}") from error
        if isinstance(found, int | float) and not abs(found) <= _LARGEST:
            raise UserError(f"{shown(self.text)} is {shown(found)}, no number that a setting can have")
        return found


@dataclass(frozen=True, slots=True)
class Template:
    """A text with ``{expressions}`` in it; one expression alone keeps its type."""

    text: str
    parts: tuple[str | Expression, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Read a template; raises ``ValueError``."""
        pieces = _FIELD.split(text)
        if any("{" in piece or "}" in piece for piece in pieces[::2]):
            raise ValueError(f"{shown(text)} has a brace without its partner")
        parts = [Expression.parse(piece) if place % 2 else piece for place, piece in enumerate(pieces)]
        return cls(text, tuple(part for part in parts if part != ""))

    @property
    def names(self) -> frozenset[str]:
        """The columns and names it needs."""
        return frozenset().union(*(part.names for part in self.parts if isinstance(part, Expression)))

    def of(self, values: Values) -> Value:
        """Return the text, or the value of its only expression, for a row; raises ``UserError``."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
            return self.parts[0].of(values)
        return "".join(part if isinstance(part, str) else _as_text(part.of(values)) for part in self.parts)


def cell_value(text: str) -> Value:
    """Return a cell as a whole number where it is one (8, 8.0), as a number, or as the text it is."""
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        return text
    return int(number) if number.is_integer() and abs(number) <= _LARGEST else number


def _as_text(value: Value) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def _names(tree: ast.AST, text: str) -> Iterator[str]:
    """Yield the names of an expression; raises ``ValueError`` for what is no part of one."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
                continue
            case ast.Constant(value=int() | float() | str()):
                continue
            case ast.Name(id=name):
                if name not in _FUNCTIONS:
                    yield name
            case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
                continue
            case ast.Compare(ops=ops) if all(type(op) in _COMPARISONS or isinstance(op, ast.In) for op in ops):
                continue
            case ast.BoolOp() | ast.UnaryOp(op=ast.USub() | ast.Not()) | ast.Tuple():
                continue
            case ast.operator() | ast.cmpop() | ast.boolop() | ast.unaryop() | ast.expr_context():
                continue
            case _:
                raise ValueError(f"{shown(text)}: {type(node).__name__} is not understood ({_HINT})")


def _evaluate(node: ast.expr, values: Values) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.Tuple(elts=parts):
            return tuple(_evaluate(part, values) for part in parts)
        case ast.UnaryOp(op=op, operand=inner):
            value = _evaluate(inner, values)
            return not value if isinstance(op, ast.Not) else -value
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_number(left, values), _number(right, values))
        case ast.BoolOp(op=op, values=parts):
            found = (bool(_evaluate(part, values)) for part in parts)
            return all(found) if isinstance(op, ast.And) else any(found)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _FUNCTIONS[name](*(_number(argument, values) for argument in arguments))
        case ast.Compare(left=left, ops=ops, comparators=others):
            terms = [_evaluate(term, values) for term in (left, *others)]
            return all(_compared(op, one, other) for op, one, other in zip(ops, terms, terms[1:], strict=False))
    raise TypeError(f"{type(node).__name__} is not understood")


def _number(node: ast.expr, values: Values) -> int | float:
    value = _evaluate(node, values)
    if not isinstance(value, int | float):
        raise TypeError(f"{shown(value)} is no number")
    return value


def _compared(op: ast.cmpop, one: Value, other: Any) -> bool:
    if isinstance(op, ast.In):
        return one in other if isinstance(other, tuple) else False
    return _COMPARISONS[type(op)](one, other)
