"""Flags as a shell word list: what every engine's command is written with."""

import json
from collections.abc import Sequence

Flag = tuple[str, object]


def command(program: str, flags: Sequence[Flag]) -> str:
    """Write a command; flags whose value is None are left out, a boolean is the flag itself or its negation."""
    return " ".join([program, *(_flag(name, value) for name, value in flags if value is not None)])


def as_json(value: object) -> str:
    """Write a flag's JSON value as one shell word."""
    return f"'{json.dumps(value)}'"


def above_one(degree: int) -> int | None:
    """Return a degree of parallelism, or a streaming interval, as a flag's value: one is every engine's own."""
    return degree if degree > 1 else None


def _flag(name: str, value: object) -> str:
    if isinstance(value, bool):
        return name if value else name.replace("--", "--no-", 1)
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
