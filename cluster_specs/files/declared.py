"""Values that people write into files, declared in pydantic's words without importing pydantic.

pydantic is what checks a person's file: every fault at once, each with its place. It takes longer to be imported, and
to make its models, than a simulation takes; and the files that come with the package were checked before they did. So
a declaration is recorded here, and becomes a pydantic model of the same fields when something is to be checked
(`cluster_specs.files.checking`). What is not to be checked again is `trusted`.

    class Clock(Declared, frozen=True, extra="forbid", strict=True):
        base_mhz: Annotated[float, Field(gt=0)]

``Clock(base_mhz=1.0)`` and ``Clock.model_validate`` check as a pydantic model does, and raise its ``ValidationError``.
"""

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Final, Self, Union, cast, dataclass_transform, get_args, get_origin

from cluster_specs.lazy_dataclass import dataclass

_REQUIRED: Final = object()


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A call of one of pydantic's names, to be made when a declaration becomes a model."""

    name: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RecordedCheck:
    """A method that checks a field or the whole, as its decorator found it."""

    decorator: Recorded
    method: Any


def Field(**stated: Any) -> Any:  # noqa: N802 - pydantic's names
    """Record ``pydantic.Field``: a default, an alias, bounds."""
    return Recorded("Field", (), stated)


def AfterValidator(check: Callable[[Any], Any]) -> Recorded:  # noqa: N802
    """Record ``pydantic.AfterValidator``."""
    return Recorded("AfterValidator", (check,), {})


def BeforeValidator(check: Callable[[Any], Any]) -> Recorded:  # noqa: N802
    """Record ``pydantic.BeforeValidator``."""
    return Recorded("BeforeValidator", (check,), {})


def WrapValidator(check: Callable[[Any, Callable[[Any], Any]], Any]) -> Recorded:  # noqa: N802
    """Record ``pydantic.WrapValidator``."""
    return Recorded("WrapValidator", (check,), {})


def PlainSerializer(form: Callable[[Any], Any], **stated: Any) -> Recorded:  # noqa: N802
    """Record ``pydantic.PlainSerializer``."""
    return Recorded("PlainSerializer", (form,), stated)


def field_validator(*names: str) -> Callable[[Any], Any]:
    """Record ``pydantic.field_validator`` on a class method."""
    return lambda method: RecordedCheck(Recorded("field_validator", names, {}), method)


def model_validator(*, mode: str) -> Callable[[Any], Any]:
    """Record ``pydantic.model_validator`` on a method."""
    return lambda method: RecordedCheck(Recorded("model_validator", (), {"mode": mode}), method)


@dataclass(frozen=True, slots=True)
class DeclaredField:
    """One field: what was written behind its name."""

    declared: Any  # its type, with what bounds it
    default: Any = _REQUIRED  # the value, or a recorded ``Field``

    @property
    def annotation(self) -> Any:
        """The type alone."""
        return get_args(self.declared)[0] if get_origin(self.declared) is Annotated else self.declared

    @property
    def _stated(self) -> Mapping[str, Any]:
        return self.default.keywords if isinstance(self.default, Recorded) else {"default": self.default}

    def is_required(self) -> bool:
        """Whether a file must state it."""
        return "default_factory" not in self._stated and self._stated.get("default", _REQUIRED) is _REQUIRED

    def key(self, name: str) -> str:
        """Return what a file calls it."""
        return str(self._stated.get("alias", name))

    def unstated(self) -> Any:
        """Return what leaving it out means."""
        factory = self._stated.get("default_factory")
        return self._stated["default"] if factory is None else factory()


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class Declared:
    """A frozen value with named fields; equal to another of its class with equal fields."""

    model_fields: ClassVar[Mapping[str, DeclaredField]] = {}
    model_options: ClassVar[Mapping[str, Any]] = {}  # pydantic's ``ConfigDict``

    def __init_subclass__(cls, **options: Any) -> None:
        """Collect the fields of a class behind those of the one it extends."""
        super().__init_subclass__()
        own = cls.__dict__
        fields = {
            name: DeclaredField(declared, own.get(name, _REQUIRED))
            for name, declared in own.get("__annotations__", {}).items()
            if not name.startswith("_")
        }
        for name in fields:
            if name in own:
                delattr(cls, name)
        cls.model_fields = {**cls.model_fields, **fields}
        cls.model_options = {**cls.model_options, **options}

    def __init__(self, **values: Any) -> None:
        """Check values; raises pydantic's ``ValidationError``, a ``ValueError``."""
        from cluster_specs.files.checking import made_of

        self.__dict__.update(made_of(type(self), values).__dict__)

    @classmethod
    def model_validate(cls, values: Any) -> Self:
        """Check values by key; raises pydantic's ``ValidationError``, a ``ValueError``."""
        from cluster_specs.files.checking import validated

        return cast("Self", validated(cls, values))

    @classmethod
    def trusted(cls, values: Mapping[str, Any]) -> Self:
        """Make a value of what is known to pass the checks, by key as a file states it; whole numbers become floats."""
        stated = {}
        for name, field in cls.model_fields.items():
            key = field.key(name)
            strip = bool(cls.model_options.get("str_strip_whitespace"))
            stated[name] = _trusted(field.declared, values[key], strip=strip) if key in values else field.unstated()
        return cls.of_fields(stated)

    @classmethod
    def of_fields(cls, values: Mapping[str, Any]) -> Self:
        """Make a value of the values of its fields, by name, as they are."""
        made = object.__new__(cls)
        made.__dict__.update(values)
        return made

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, declared values in them as they are."""
        return {name: getattr(self, name) for name in self.model_fields}

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """Return the value with some fields changed, which are not checked; a mark of ``_its`` own may be set."""
        return self.of_fields({**self.__dict__, **(update or {})})

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Return the fields as plain values, with pydantic's options."""
        from cluster_specs.files.checking import as_model

        found: dict[str, Any] = as_model(self).model_dump(**options)
        return found

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set to {value!r}")

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.__dict__.items())})"


def _trusted(declared: Any, value: Any, *, strip: bool) -> Any:
    """Give a value of a sound file the type that checking would give it."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return _trusted_wrapped(arguments[0], arguments[1:], value, strip=strip)
    if isinstance(declared, type) and issubclass(declared, Declared):
        return value if isinstance(value, declared) else declared.trusted(value)
    if origin in {Union, UnionType}:
        (inner,) = (kind for kind in arguments if kind is not NoneType)
        return None if value is None else _trusted(inner, value, strip=strip)
    if origin in {list, tuple}:
        return origin(_trusted(arguments[0], item, strip=strip) for item in value)
    if origin is dict:
        return {key: _trusted(arguments[1], item, strip=strip) for key, item in value.items()}
    if declared is float:
        return value if isinstance(value, float) else float(value)
    return value.strip() if strip and isinstance(value, str) else value


def _trusted_wrapped(declared: Any, rules: Sequence[Any], value: Any, *, strip: bool) -> Any:
    """Read a value by its own reader where it has one; bounds were checked before."""
    readers = [rule for rule in rules if isinstance(rule, Recorded) and rule.name == "WrapValidator"]
    if not readers:
        return _trusted(declared, value, strip=strip)
    (read,) = readers[0].arguments
    return read(value, lambda stated: _trusted(declared, stated, strip=strip))
