"""Declared values compared to the type of every part."""

from typing import Any

from cluster_specs.files.declared import Declared


def exact(value: Any) -> Any:
    """Return a value with the type of every part of it, which equality does not look at."""
    if isinstance(value, Declared):
        return type(value), {name: exact(item) for name, item in value.fields().items()}
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [exact(item) for item in value]
    return type(value), value, getattr(value, "error", None)
