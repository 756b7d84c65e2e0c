"""Plain values as the text of a TOML file: what `tomllib` reads, the standard library cannot write."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class InlineTable(dict[str, Any]):
    """A table that is written in one line, as one value."""


def toml_text(values: Mapping[str, Any]) -> str:
    """Write tables of texts, numbers, booleans, lists and tables; the plain keys of a table come before its tables."""
    return "\n".join(_sections(values, ())) + "\n"


def toml_value(value: Any) -> str:
    """Write one value, a table or a list of them in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {toml_value(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    raise TypeError(f"TOML has no form for {type(value).__name__}")


def _sections(values: Mapping[str, Any], place: tuple[str, ...]) -> list[str]:
    tables = {name: value for name, value in values.items() if _is_table(value) or _is_tables(value)}
    lines = [f"{_key(name)} = {toml_value(value)}" for name, value in values.items() if name not in tables]
    for name, value in tables.items():
        here = (*place, name)
        path = ".".join(map(_key, here))
        for table in [value] if _is_table(value) else value:
            lines += ["", f"[{path}]" if _is_table(value) else f"[[{path}]]", *_sections(table, here)]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and not isinstance(value, InlineTable)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(_is_table(item) for item in value)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_value(name)
