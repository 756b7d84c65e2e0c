"""Durations as people type them: ``90``, ``60s``, ``20m``, ``1.5h``."""

import re
from typing import Final

from cluster_specs.errors import UserError

_UNITS_S: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORM: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*$")


def parse_duration_s(text: str, option: str) -> float:
    """Return seconds; raises ``UserError`` naming ``option``."""
    match = _FORM.match(text.lower())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"{option} is {text!r}, must be a positive duration", hint="for example 90, 60s, 20m or 1.5h")
    return float(match[1]) * _UNITS_S[match[2]]


def format_duration(seconds: float) -> str:
    """Short text: ``12 s``, ``3m05s``, ``1h02m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
