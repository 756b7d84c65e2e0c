"""Declarations as pydantic models: what checks the files of people, and what writes values out."""

from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType, new_class
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict

from cluster_specs.files.declared import Declared, DeclaredField, Recorded, RecordedCheck


def validated(declared: type[Declared], values: Any) -> Declared:
    """Check plain values by key, of any depth; raises ``ValidationError``."""
    found: Declared = _declared(model_of(declared).model_validate(values))
    return found


def made_of(declared: type[Declared], values: Mapping[str, Any]) -> Declared:
    """Check values by key, among them declared ones, which were checked; raises ``ValidationError``."""
    return validated(declared, _as_models(values))


def as_model(value: Declared) -> BaseModel:
    """Return a value as its pydantic model, unchecked."""
    fields = type(value).model_fields
    stated = {field.key(name): _as_models(getattr(value, name)) for name, field in fields.items()}
    return model_of(type(value)).model_construct(**stated)


def model_of(declared: type[Declared]) -> type[BaseModel]:
    """Return the pydantic model of a declaration: its fields, its checks, and the methods these call."""
    return _model_of(declared)  # type: ignore[arg-type]  # taken for an instance, whose hash is another


@cache
def _model_of(declared: type[Declared]) -> type[BaseModel]:
    namespace: dict[str, Any] = {
        "__module__": declared.__module__,
        "__qualname__": declared.__qualname__,
        "__doc__": declared.__doc__,
        "__annotations__": {name: _type(field.declared) for name, field in declared.model_fields.items()},
        "model_config": ConfigDict(**declared.model_options),  # type: ignore[typeddict-item]
        "declared_as": classmethod(lambda _cls: declared),
    }
    for kind in reversed(declared.__mro__[: declared.__mro__.index(Declared)]):
        for name, member in kind.__dict__.items():
            if isinstance(member, RecordedCheck):
                namespace[name] = _made(member.decorator)(member.method)
            elif isinstance(member, property | classmethod | staticmethod) or callable(member):
                namespace[name] = member
    namespace |= {name: _default(field) for name, field in declared.model_fields.items() if _has_default(field)}
    return new_class(declared.__name__, (BaseModel,), exec_body=lambda body: body.update(namespace))


def _has_default(field: DeclaredField) -> bool:
    return isinstance(field.default, Recorded) or not field.is_required()


def _default(field: DeclaredField) -> Any:
    return _made(field.default) if isinstance(field.default, Recorded) else _as_models(field.default)


def _made(call: Recorded) -> Any:
    make: Callable[..., Any] = getattr(pydantic, call.name)
    return make(*call.arguments, **call.keywords)


def _type(declared: Any) -> Any:
    """Put models in the place of declarations, and pydantic's own rules in the place of recorded ones."""
    if isinstance(declared, type) and issubclass(declared, Declared):
        return model_of(declared)
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        rules = (_made(rule) if isinstance(rule, Recorded) else rule for rule in arguments[1:])
        return Annotated[(_type(arguments[0]), *rules)]
    if origin in {Union, UnionType}:
        return Union[tuple(map(_type, arguments))]  # noqa: UP007 - of as many as there are
    if origin in {list, tuple, dict}:
        return origin[tuple(map(_type, arguments))]
    return declared


def _as_models(value: Any) -> Any:
    """Put models in the place of declared values, in lists and tables too."""
    if isinstance(value, Declared):
        return as_model(value)
    if type(value) in {list, tuple}:
        return type(value)(map(_as_models, value))
    if isinstance(value, Mapping):
        return {key: _as_models(item) for key, item in value.items()}
    return value


def _declared(value: Any) -> Any:
    """Put declared values in the place of models, in lists and tables too."""
    if isinstance(value, BaseModel):
        declared: type[Declared] = value.declared_as()  # type: ignore[attr-defined]
        return declared.of_fields({name: _declared(getattr(value, name)) for name in declared.model_fields})
    if type(value) in {list, tuple}:
        return type(value)(map(_declared, value))
    if isinstance(value, dict):
        return {key: _declared(item) for key, item in value.items()}
    return value
