"""Mark the functions that are compiled: plain Python, of which the engine's object code is made (``native``).

A kernel's annotations are its signature there: ``int``, ``bool``, ``float``, a record, ``Ints``, or a tuple of them. It
calls other kernels and the look-ups of ``tables`` only, and no two kernels call each other.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

_MARK: Final = "is_kernel"

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Mark ``function`` as one that is compiled when an engine reaches it; called from Python it runs as Python."""
    setattr(function, _MARK, True)
    return function


def is_kernel(value: object) -> bool:
    """Tell a marked function from everything else."""
    return getattr(value, _MARK, False) is True
