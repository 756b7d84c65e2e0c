"""A person's TOML file as a checked value: unknown keys refused, all faults named at once, values shown bounded."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

from cluster_specs.errors import UserError
from cluster_specs.files.declared import Declared
from cluster_specs.files.reading import read_document
from cluster_specs.files.shown import shown

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class Checks(Protocol):
    """A declaration or a pydantic model: what checks the values of a file."""

    @classmethod
    def model_validate(cls, values: Any, /) -> Self:
        """Return the checked value; raises pydantic's ``ValidationError``."""


Model = TypeVar("Model", bound=Checks)
Bundled = TypeVar("Bundled", bound=Declared)
Place = tuple[int | str, ...]

# The largest bundled file has 4 kB.
_MOST_BYTES: Final = 2**20
_MOST_FAULTS: Final = 12
_HINT: Final = "it must be a UTF-8 TOML file"
_FAULT_HINT: Final = "the bundled files show every key; remove or correct these"


def read_toml(path: Path, model: type[Model], *, hint: str = _HINT) -> Model:
    """Read and check a file; raises ``UserError`` with every fault at once, each with its place and value.

    ``hint`` says what to do about a file that is not there.
    """
    return checked(read_values(path, hint=hint), model, lambda _place: str(path))


def read_bundled(path: Path, model: type[Bundled]) -> Bundled:
    """Read a file that comes with the package, which its tests check as a person's file is checked."""
    return model.trusted(read_values(path))


def read_values(path: Path, *, hint: str = _HINT) -> dict[str, Any]:
    """Read a file's tables as they stand, unchecked; raises ``UserError`` for a file that is no TOML."""
    content = read_document(path, most_bytes=_MOST_BYTES, hint=hint)
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: not UTF-8 at byte {error.start}", hint=_HINT) from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: cannot be read: {_bounded(str(error))}", hint=_HINT) from error
    except RecursionError as error:
        raise UserError(f"{path}: cannot be read: nested too deeply", hint=_HINT) from error
    except ValueError as error:  # the interpreter's limit on the digits of an integer, or a date that is none
        raise UserError(f"{path}: cannot be read: {_bounded(str(error))}", hint=_HINT) from error


def checked(
    values: dict[str, Any], model: type[Model], file_of: Callable[[Place], str], *, hint: str = _FAULT_HINT
) -> Model:
    """Check values; raises ``UserError`` with every fault at once, after the name of the file that states the value.

    ``file_of`` names that file by the place of the value: keys of tables and indices of lists, outermost first.
    """
    try:
        return model.model_validate(values)
    except ValueError as error:
        from pydantic import ValidationError

        if not isinstance(error, ValidationError):
            raise
        raise UserError(_describe(error, file_of), hint=hint) from error


def _describe(error: "ValidationError", file_of: Callable[[Place], str]) -> str:
    """List every complaint at once, file by file, each with its place and the value found."""
    faults: dict[str, list[str]] = {}
    found = error.errors(include_url=False)
    for item in found[:_MOST_FAULTS]:
        faults.setdefault(file_of(item["loc"]), []).append(_fault(item))
    more = f"; and {len(found) - _MOST_FAULTS} more" if len(found) > _MOST_FAULTS else ""
    return "; ".join(f"{file}: {'; '.join(lines)}" for file, lines in faults.items()) + more


def _fault(item: "ErrorDetails") -> str:
    place = ""
    for part in item["loc"]:
        name = _bounded(str(part), 40)
        place += f"[{part}]" if isinstance(part, int) else f".{name}" if place else name
    if item["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    if item["type"] == "missing":
        return f"{place}: missing"
    if item["type"] == "value_error":
        text = item["msg"].removeprefix("Value error, ")
        return f"{place} {text}" if text.startswith("is ") else f"{place}: {text}" if place else text
    return f"{place} is {shown(item['input'])}, must be {item['msg'].removeprefix('Input should be ')}"


def _bounded(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
