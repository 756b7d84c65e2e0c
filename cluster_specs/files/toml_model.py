"""A person's TOML file as a checked value: unknown keys refused, all faults named at once, values shown bounded."""

import tomllib
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from cluster_specs.errors import UserError
from cluster_specs.files.reading import read_document
from cluster_specs.files.shown import shown

Model = TypeVar("Model", bound=BaseModel)

# The largest bundled file has 4 kB.
_MOST_BYTES: Final = 2**20
_MOST_FAULTS: Final = 12
_HINT: Final = "it must be a UTF-8 TOML file"


def read_toml(path: Path, model: type[Model], *, hint: str = _HINT) -> Model:
    """Read and check a file; raises ``UserError`` with every fault at once, each with its place and value.

    ``hint`` says what to do about a file that is not there.
    """
    content = read_document(path, most_bytes=_MOST_BYTES, hint=hint)
    try:
        values = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: not UTF-8 at byte {error.start}", hint=_HINT) from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: cannot be read: {_bounded(str(error))}", hint=_HINT) from error
    except RecursionError as error:
        raise UserError(f"{path}: cannot be read: nested too deeply", hint=_HINT) from error
    except ValueError as error:  # the interpreter's limit on the digits of an integer, or a date that is none
        raise UserError(f"{path}: cannot be read: {_bounded(str(error))}", hint=_HINT) from error
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
            name = _bounded(str(part), 40)
            place += f"[{part}]" if isinstance(part, int) else f".{name}" if place else name
        if item["type"] == "extra_forbidden":
            lines.append(f"{place}: unknown key")
        elif item["type"] == "missing":
            lines.append(f"{place}: missing")
        elif item["type"] == "value_error":
            text = item["msg"].removeprefix("Value error, ")
            lines.append(f"{place} {text}" if text.startswith("is ") else f"{place}: {text}" if place else text)
        else:
            text = item["msg"].removeprefix("Input should be ")
            lines.append(f"{place} is {shown(item['input'])}, must be {text}")
    more = f"; and {len(lines) - _MOST_FAULTS} more" if len(lines) > _MOST_FAULTS else ""
    return f"{path}: " + "; ".join(lines[:_MOST_FAULTS]) + more


def _bounded(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
