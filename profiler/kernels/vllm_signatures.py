"""Compares every call we make into vLLM with vLLM's own signatures, from source alone: no GPU, nothing imported.

Our side: the imports ``from vllm... import name`` of a file and every call through those names. Their side: the
function or class of that name in an installed vLLM or an unpacked wheel, re-exports followed. A call is bound as Python
would bind it: too many positional arguments, unknown keywords and missing required parameters are mismatches. A name
that is handed on instead of called only has to be there.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from cluster_specs.lazy_dataclass import dataclass

_MAX_REEXPORTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmCall:
    """One call in our code: ``module`` and ``function`` as vLLM names them."""

    place: str
    module: str
    function: str
    positional: int
    keywords: tuple[str, ...]
    is_open: bool  # passes *args or **kwargs, so that only what is visible can be checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A call that vLLM's signature does not take."""

    call: VllmCall
    problem: str

    def __str__(self) -> str:
        """One line: where, what, why."""
        return f"{self.call.place}: {self.call.module}.{self.call.function}: {self.problem}"


def calls_into_vllm(files: Iterable[Path]) -> list[VllmCall]:
    """Return every call made through a name imported from vLLM."""
    return [call for path in files for call in _calls_of(path)]


def mismatches(calls: Iterable[VllmCall], package: Path) -> list[Mismatch]:
    """Check ``calls`` against the sources below ``package`` (the folder named ``vllm``)."""
    found = []
    for call in calls:
        target = _find(package, call.module, call.function)
        if target is None:
            found.append(Mismatch(call=call, problem="no such function or class"))
            continue
        arguments, is_method = target
        problem = _binding_problem(call, arguments, is_method=is_method)
        if problem:
            found.append(Mismatch(call=call, problem=problem))
    return found


def _calls_of(path: Path) -> Iterator[VllmCall]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions: dict[str, tuple[str, str]] = {}
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vllm":
            for name in node.names:
                functions[name.asname or name.name] = (node.module, name.name)
                modules[name.asname or name.name] = f"{node.module}.{name.name}"
    named = set()  # names that are called, or whose attributes are
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            named.add(node.value)
        if not isinstance(node, ast.Call):
            continue
        target = node.func
        named.add(target)
        if isinstance(target, ast.Name) and target.id in functions:
            module, function = functions[target.id]
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in modules:
            module, function = modules[target.value.id], target.attr
        else:
            continue
        yield VllmCall(
            place=f"{path.name}:{node.lineno}",
            module=module,
            function=function,
            positional=sum(not isinstance(argument, ast.Starred) for argument in node.args),
            keywords=tuple(keyword.arg for keyword in node.keywords if keyword.arg),
            is_open=any(keyword.arg is None for keyword in node.keywords)
            or any(isinstance(argument, ast.Starred) for argument in node.args),
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in functions and node not in named:
            module, function = functions[node.id]
            place = f"{path.name}:{node.lineno}"
            yield VllmCall(place=place, module=module, function=function, positional=0, keywords=(), is_open=True)


def _find(package: Path, module: str, name: str, depth: int = 0) -> tuple[ast.arguments, bool] | None:
    """Return the parameters of ``module.name`` and whether the first is ``self``; ``module`` may be a class."""
    path = _source_of(package, module)
    if depth > _MAX_REEXPORTS:
        return None
    if path is None:
        return _find_in_class(package, module, name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node.args, False
        if isinstance(node, ast.ClassDef) and node.name == name:
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                    return member.args, True
            return _fields(node), False
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    origin = _absolute(node, module, is_package=path.name == "__init__.py")
                    return _find(package, origin, alias.name, depth + 1)
    return None


def _find_in_class(package: Path, place: str, name: str) -> tuple[ast.arguments, bool] | None:
    """Return the parameters of a method of the class ``place``, whose module defines it."""
    module, _, owner = place.rpartition(".")
    path = _source_of(package, module)
    if path is None:
        return None
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == owner:
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name == name:
                    is_static = any(
                        isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in member.decorator_list
                    )
                    return member.args, not is_static
    return None


def _fields(node: ast.ClassDef) -> ast.arguments:
    """Return what a class without a constructor of its own takes: its annotated fields, as dataclasses take them."""
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    names = [ast.arg(arg=item.target.id) for item in fields if isinstance(item.target, ast.Name)]
    defaults: list[ast.expr | None] = [item.value for item in fields]
    return ast.arguments(posonlyargs=[], args=[], kwonlyargs=names, kw_defaults=defaults, defaults=[])


def _source_of(package: Path, module: str) -> Path | None:
    stem = package.parent.joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """Return the module an import statement inside ``module`` names."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _binding_problem(call: VllmCall, arguments: ast.arguments, *, is_method: bool) -> str:
    """Return why the call does not bind, empty where it does."""
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)][is_method:]
    keyword_only = [argument.arg for argument in arguments.kwonlyargs]
    if call.positional > len(names) and arguments.vararg is None:
        return f"{call.positional} positional arguments, takes {len(names)} ({', '.join(names)})"
    unknown = [name for name in call.keywords if name not in {*names, *keyword_only}]
    if unknown and arguments.kwarg is None:
        return f"no parameter named {', '.join(unknown)} (has {', '.join([*names, *keyword_only])})"
    if call.is_open:
        return ""
    required = names[call.positional : len(names) - len(arguments.defaults)]
    required += [name for name, default in zip(keyword_only, arguments.kw_defaults, strict=True) if default is None]
    missing = [name for name in required if name not in call.keywords]
    return f"required parameters not given: {', '.join(missing)}" if missing else ""
