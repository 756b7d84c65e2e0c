"""A person's TOML file as a checked value: unknown keys refused, all faults named at once."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cluster_specs.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, model: type[Model]) -> Model:
    """Read and check a file; raises ``UserError`` with every fault at once, each with its place and value."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", hint="it must be a UTF-8 TOML file") from error
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(
            _describe(path, error), hint="the bundled files show every key; remove or correct these"
        ) from error


def _describe(path: Path, error: ValidationError) -> str:
    """List every complaint at once, each with its place and the value found."""
    lines = []
    for item in error.errors(include_url=False):
        place = ""
        for part in item["loc"]:
            place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
        if item["type"] == "extra_forbidden":
            lines.append(f"{place}: unknown key")
        elif item["type"] == "missing":
            lines.append(f"{place}: missing")
        elif item["type"] == "value_error":
            lines.append((f"{place}: " if place else "") + item["msg"].removeprefix("Value error, "))
        else:
            text = item["msg"].removeprefix("Input should be ")
            lines.append(f"{place} is {item['input']!r}, must be {text}")
    return f"{path}: " + "; ".join(lines)
