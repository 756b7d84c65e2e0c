"""The standard ``dataclass``, whose frozen values have methods that nobody compiles before they are called.

The standard library writes and compiles six methods of each class when its module is imported, though a command calls
few of them: nearly a millisecond a class, a fourth of a short command. Here it makes the class, its fields and slots;
what compares, hashes and shows values goes by the names of the fields, and ``__init__`` is written at the first call.
The result is a dataclass to ``fields``, ``replace``, ``asdict``, ``copy`` and pickles. Other forms than frozen with
slots are the standard library's own, as are all to those who check types.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import MISSING, FrozenInstanceError, fields
from inspect import Signature, signature
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Final, Never

__all__ = ["dataclass"]

_OPTIONS: Final = frozenset({"frozen", "slots", "kw_only", "eq"})

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(**options: bool) -> Callable[[type], type]:
        """Make a dataclass as ``dataclasses.dataclass(**options)`` does."""
        if not (options.get("frozen") and options.get("slots")) or options.keys() - _OPTIONS:
            return dataclasses.dataclass(**options)
        return lambda cls: _frozen(cls, kw_only=options.get("kw_only", False), is_compared=options.get("eq", True))


def _frozen(cls: type, *, kw_only: bool, is_compared: bool) -> Any:
    own = set(cls.__dict__)
    cls.__doc__ = cls.__doc__ or cls.__name__  # left empty, it would be made of the signature
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
    shown = [field.name for field in fields(made) if field.repr]
    compared = [field.name for field in fields(made) if field.compare]
    methods: dict[str, Any] = {
        "__init__": _first_init(made),
        "__signature__": _SignatureOfInit(),
        "__repr__": _text_of(shown),
        "__getstate__": _state,
        "__setstate__": _restore,
        "__setattr__": _refuse_to_set,
        "__delattr__": _refuse_to_delete,
    }
    if is_compared:
        methods |= _comparison(compared, hashed=[name for name in compared if _is_hashed(made, name)])
        own -= {"__hash__"} if "__eq__" in own and cls.__hash__ is None else set()  # Python's, not the author's
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method)
    return made


def _is_hashed(made: Any, name: str) -> bool:
    return bool(made.__dataclass_fields__[name].hash in {None, True})


def _first_init(made: Any) -> Callable[..., None]:
    """Return what writes the real ``__init__`` when it is first called, and calls it."""

    def __init__(self: Any, /, *values: Any, **named: Any) -> None:  # noqa: N807 - it stands in for that method
        made.__init__ = _written_init(made)
        made.__init__(self, *values, **named)

    return __init__


def _written_init(made: Any) -> Callable[..., None]:
    """Compile the method that puts arguments, defaults and what factories make into the slots."""
    known: dict[str, Any] = {"_missing": MISSING}
    ordered: list[str] = []
    named: list[str] = []
    lines: list[str] = []
    for at, field in enumerate(fields(made)):
        known[f"_set_{at}"] = getattr(made, field.name).__set__
        value = field.name
        if field.default is not MISSING:
            known[f"_default_{at}"] = field.default
            stated = f"{field.name}=_default_{at}"
            value = field.name if field.init else f"_default_{at}"
        elif field.default_factory is not MISSING:
            known[f"_make_{at}"] = field.default_factory
            stated = f"{field.name}=_missing"
            value = f"_make_{at}() if {field.name} is _missing else {field.name}" if field.init else f"_make_{at}()"
        else:
            stated = field.name
        if field.init:
            (named if field.kw_only else ordered).append(stated)
        if field.init or value != field.name:
            lines.append(f"_set_{at}(self, {value})")
    if hasattr(made, "__post_init__"):
        lines.append("self.__post_init__()")
    arguments = ", ".join(["self", *ordered, *(["*", *named] if named else [])])
    body = "\n    ".join(lines or ["pass"])
    exec(f"def __init__({arguments}):\n    {body}", known)  # noqa: S102 - names of fields alone, as dataclasses do
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{made.__qualname__}.__init__"
    init.__module__ = made.__module__
    init.__annotations__ = {field.name: field.type for field in fields(made) if field.init} | {"return": None}
    return init


class _SignatureOfInit:
    """What ``inspect.signature`` finds on a class, whose ``__init__`` may not be written yet."""

    def __get__(self, value: object, owner: type) -> Signature:
        found = signature(_written_init(owner))
        return found.replace(parameters=list(found.parameters.values())[1:])


def _comparison(compared: Sequence[str], hashed: Sequence[str]) -> dict[str, Any]:
    """Return equality with values of the very class, and the hash that goes with it."""
    of_compared, of_hashed = _values_of(compared), _values_of(hashed)

    def __eq__(self: Any, other: object) -> Any:  # noqa: N807
        if other.__class__ is not self.__class__:
            return NotImplemented
        return of_compared(self) == of_compared(other)

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(of_hashed(self))

    return {"__eq__": __eq__, "__hash__": __hash__}


def _values_of(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _text_of(names: Sequence[str]) -> Callable[[Any], str]:
    def __repr__(self: Any) -> str:  # noqa: N807
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({shown})"

    return recursive_repr()(__repr__)


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in fields(self)]


def _restore(self: Any, state: Sequence[Any]) -> None:
    for field, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


def _refuse_to_set(self: Any, name: str, value: object) -> Never:  # noqa: ARG001 - the signature of __setattr__
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> Never:  # noqa: ARG001
    raise FrozenInstanceError(f"cannot delete field {name!r}")
