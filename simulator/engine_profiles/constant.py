"""A physical constant of an engine profile, and how far off it may be.

    launch_s = 30e-6                              # nobody says how far off: its error is none
    launch_s = { value = 30e-6, error = 10e-6 }   # half the width of its 90 % interval, in the unit of the key

A constant is a ``float`` that carries its error, so that what computes with it need not know; ``error_of`` reads it.
A file that extends another and states such a key replaces value and error together.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from cluster_specs.files.declared import PlainSerializer, WrapValidator
from cluster_specs.files.shown import shown

_VALUE: Final = "value"
_ERROR: Final = "error"


class Constant(float):
    """A number with ``error``, half the width of its 90 % interval; what is computed from it is a plain number."""

    __slots__ = ("error",)
    error: float

    def __new__(cls, value: float, error: float = 0.0) -> "Constant":
        """Join a value and its error."""
        self = super().__new__(cls, value)
        self.error = error
        return self


def error_of(number: float) -> float:
    """Return half the width of a number's 90 % interval; 0 where nobody stated one."""
    return float(getattr(number, _ERROR, 0.0))


def is_constant(stated: object) -> bool:
    """Whether what a file states for a key is a constant with its error: one value, though TOML calls it a table."""
    return isinstance(stated, Mapping) and _VALUE in stated


def stated_form(number: float) -> float | dict[str, float]:
    """Return what a file would state for a number: the number, or a table of it and its error."""
    error = error_of(number)
    return {_VALUE: float(number), _ERROR: error} if error else float(number)


def _read(stated: Any, check: Callable[[Any], float]) -> float:
    """Check a number, or a table of a number and its error."""
    if not isinstance(stated, Mapping):
        value: float = check(stated)
        return Constant(value, stated.error) if isinstance(stated, Constant) else value
    if _VALUE not in stated or not set(stated) <= {_VALUE, _ERROR}:
        raise ValueError(f"is {shown(dict(stated))}, must be a number or {{ value = NUMBER, error = NUMBER }}")
    value = check(stated[_VALUE])
    error = stated.get(_ERROR, 0.0)
    if isinstance(error, bool) or not isinstance(error, int | float) or not 0 <= error <= value:
        raise ValueError(f"error is {shown(error)}, must be a number from 0 to the value, {value:g}")
    return Constant(value, float(error))


# Behind the bounds of a number: ``Annotated[float, Field(ge=0), *WITH_ERROR]``.
WITH_ERROR: Final = (WrapValidator(_read), PlainSerializer(stated_form, return_type=Any, when_used="json"))
