"""Profiles that state only what differs from another profile: what ``extends`` in a file of a profile means.

    schema = 1
    name = "ours"
    extends = "vllm-0.33"          # a bundled name, or the path of a file, relative to the file that states it

    [host]
    step_s = 0.002                 # everything else is that of vllm-0.33

Tables are merged key by key; a list, a constant with its error, or any other value replaces the parent's. ``without =
["memory.states"]`` takes keys of the parents away. ``schema`` and ``name`` are never inherited. A parent may extend
another profile in turn; a circle is refused. Only the merged profile has to be complete, and every fault is reported
with the file that states it.
"""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.reading import is_file
from cluster_specs.files.shown import shown
from cluster_specs.files.toml_model import read_values
from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.bundled_profiles import (
    DEFAULT_PROFILE,
    bundled_path,
    bundled_profiles,
    is_path,
    unknown_profile,
)
from simulator.engine_profiles.constant import is_constant

Keys = tuple[str, ...]

SCHEMA: Final = 1
_HERITAGE: Final = ("extends", "without")
_OWN: Final = ("schema", "name")
# Tables of a profile nest three deep; what is deeper is no table of one, and is left for the check to refuse.
_MOST_DEPTH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProfileFile:
    """One file as it stands; ``label`` is what a table calls it: the name of a bundled profile, or the path."""

    label: str
    path: Path
    values: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedProfile:
    """The unchecked values of a profile and of all it extends, and the file that states each of them."""

    files: tuple[ProfileFile, ...]  # the profile's own first, then its parent, and so on
    values: dict[str, Any]
    stated_by: dict[Keys, ProfileFile]  # by the keys that lead to a value; a list is one value

    def file_of(self, place: tuple[int | str, ...]) -> ProfileFile | None:
        """Return the file that states the value at ``place``, or the list it is in; None where none does."""
        return self.stated_by.get(tuple(takewhile(lambda part: isinstance(part, str), place)))  # type: ignore[arg-type]

    def path_of(self, place: tuple[int | str, ...]) -> str:
        """Name the file to correct for a fault at ``place``; what no file states is missing in the profile's own."""
        return str((self.file_of(place) or self.files[0]).path)


def merge_profile(name_or_path: str) -> MergedProfile:
    """Read a profile by bundled name or TOML path, and all it extends; raises ``UserError``."""
    files = tuple(_chain(_first(name_or_path)))
    values: dict[str, Any] = {}
    stated_by: dict[Keys, ProfileFile] = {}
    for file in reversed(files):
        for dotted in _without(file):
            _take_away(dotted, file, values, stated_by)
        left_out = _HERITAGE if file is files[0] else (*_HERITAGE, *_OWN)
        own = {key: value for key, value in file.values.items() if key not in left_out}
        _lay_over(values, own, (), file, stated_by)
    return MergedProfile(files=files, values=values, stated_by=stated_by)


def own_files(name_or_path: str) -> list[Path]:
    """Return the files of a person's own that a profile is read from; raises ``UserError``."""
    if not is_path(name_or_path):
        return []
    return [file.path for file in merge_profile(name_or_path).files if file.label not in bundled_profiles()]


def _first(name_or_path: str) -> ProfileFile:
    if is_path(name_or_path):
        if not is_file(name_or_path):
            raise unknown_profile(name_or_path)
        return _read(Path(name_or_path), name_or_path)
    if name_or_path not in bundled_profiles():
        raise unknown_profile(name_or_path)
    return _read(bundled_path(name_or_path), name_or_path)


def _chain(file: ProfileFile) -> Iterator[ProfileFile]:
    """Yield a file and everything it extends, in that order."""
    labels: dict[Path, str] = {}
    while True:
        labels[file.path.resolve()] = file.label
        yield file
        parent = _parent(file)
        if parent is None:
            return
        if parent.path.resolve() in labels:
            circle = " -> ".join([*labels.values(), parent.label])
            raise UserError(
                f"{file.path}: extends is {shown(file.values['extends'])}, which extends this file in turn: {circle}",
                hint=f'let one of them extend a bundled profile, such as "{DEFAULT_PROFILE}", or none',
            )
        if parent.values.get("schema") != SCHEMA:
            raise UserError(
                f"{parent.path}: schema is {shown(parent.values.get('schema'))}, must be {SCHEMA}",
                hint=f"{file.path} extends this file, and every profile states its schema",
            )
        file = parent


def _parent(file: ProfileFile) -> ProfileFile | None:
    if "extends" not in file.values:
        return None
    parent, place = file.values["extends"], f"{file.path}: extends"
    if not isinstance(parent, str):
        raise UserError(
            f"{place} is {shown(parent)}, must be the name of a bundled profile or the path of a TOML file",
            hint=f'for example extends = "{DEFAULT_PROFILE}"',
        )
    if not is_path(parent):
        if parent not in bundled_profiles():
            raise unknown_profile(parent, place=place)
        return _read(bundled_path(parent), parent)
    path = file.path.parent / parent
    if not is_file(path):
        raise UserError(
            f"{place} is {shown(parent)}, but there is no file {shown(str(path))}",
            hint="a path is relative to the file that states it; a bundled profile goes by its name alone",
        )
    return _read(path, str(path))


def _read(path: Path, label: str) -> ProfileFile:
    return ProfileFile(label=label, path=path, values=read_values(path))


def _without(file: ProfileFile) -> list[str]:
    stated = file.values.get("without", [])
    if not isinstance(stated, list) or not all(isinstance(item, str) for item in stated):
        raise UserError(
            f"{file.path}: without is {shown(stated)}, must be a list of keys",
            hint='for example without = ["memory.states"]',
        )
    if stated and "extends" not in file.values:
        raise UserError(
            f"{file.path}: without takes keys of another profile away, but extends names none",
            hint="leave the keys out of this file instead",
        )
    return stated


def _take_away(dotted: str, file: ProfileFile, values: dict[str, Any], stated_by: dict[Keys, ProfileFile]) -> None:
    """Remove a key that a parent states, with everything below it."""
    keys = tuple(dotted.split("."))
    if keys not in stated_by:
        raise UserError(
            f"{file.path}: without names {shown(dotted)}, which {file.values['extends']} does not state",
            hint=f"apex engines {file.values['extends']} shows what it states",
        )
    table = values
    for key in keys[:-1]:
        table = table[key]
    del table[keys[-1]]
    _forget(keys, stated_by)


def _lay_over(
    values: dict[str, Any], own: dict[str, Any], place: Keys, file: ProfileFile, stated_by: dict[Keys, ProfileFile]
) -> None:
    """Put one file's values over those of its parents, and note where each of them stands now."""
    for key, value in own.items():
        here = (*place, key)
        is_table = isinstance(value, dict) and not is_constant(value) and len(here) < _MOST_DEPTH
        if not (is_table and isinstance(values.get(key), dict)):
            if isinstance(values.get(key), dict):
                _forget(here, stated_by)
            stated_by[here] = file
            values[key] = {} if is_table else value
        if is_table:
            _lay_over(values[key], value, here, file, stated_by)


def _forget(place: Keys, stated_by: dict[Keys, ProfileFile]) -> None:
    for keys in [keys for keys in stated_by if keys[: len(place)] == place]:
        del stated_by[keys]
