"""Every value of an engine profile, with the profile of its chain that states it and the source that one gives.

A ``source`` in a file speaks for the keys that the same file states in the same table, and in the tables inside it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cluster_specs.files.toml_text import InlineTable
from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.constant import is_constant
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.inheritance import Keys, MergedProfile, ProfileFile

SOURCE = "source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One value; ``stated_by`` is None where no file states it: the value is then what leaving it out means."""

    keys: Keys  # of the tables that lead to it, and its own
    value: Any  # plain: text, number, boolean, list, or None
    error: float | None  # half the width of a constant's 90 % interval; None where nobody states one
    stated_by: str | None
    source: str | None

    @property
    def stated(self) -> Any:
        """The value as a file states it, a constant with its error."""
        return self.value if self.error is None else InlineTable(value=self.value, error=self.error)

    @property
    def key(self) -> str:
        """The keys with dots between them."""
        return ".".join(self.keys)


def iter_facts(profile: EngineProfile, merged: MergedProfile) -> Iterator[Fact]:
    """Yield the values of a profile in the order of its schema, without the sources themselves."""
    values = profile.model_dump(mode="json", by_alias=True)
    values["limits"] = [item.model_dump(mode="json", exclude_defaults=True) for item in profile.limits]
    for keys, value in _leaves(values, ()):
        if keys[-1] == SOURCE:
            continue
        file = merged.file_of(keys)
        table = None if file is None else _source_table(file, keys)
        yield Fact(
            keys=keys,
            value=value["value"] if is_constant(value) else value,
            error=value["error"] if is_constant(value) else None,
            stated_by=None if file is None else file.label,
            source=None if file is None or table is None else str(_table(file, table)[SOURCE]),
        )


def sources(merged: MergedProfile, table: Keys) -> list[tuple[str, str]]:
    """Return what the files of a profile say of where the figures of a table come from: (file, source), nearest first.

    Left out are files none of whose values are left, but for the nearest: it looked last.
    """
    found = [(file, text) for file in merged.files if isinstance(text := _table(file, table).get(SOURCE), str)]
    stating = {
        file.path
        for keys, file in merged.stated_by.items()
        if keys[-1] != SOURCE and keys not in _tables(merged) and _source_table(file, keys) == table
    }
    return [(file.label, text) for file, text in found if file is found[0][0] or file.path in stating]


def whole_profile(profile: EngineProfile, merged: MergedProfile) -> dict[str, Any]:
    """Return the values of a profile as one file that extends none states them; sources of several files are joined."""
    whole: dict[str, Any] = {}
    for fact in iter_facts(profile, merged):
        if fact.value is None:
            continue
        table = whole
        for key in fact.keys[:-1]:
            table = table.setdefault(key, {})
        table[fact.keys[-1]] = fact.stated
    for keys in [(), *_tables(merged)]:
        found = sources(merged, keys)
        if found:
            table = whole
            for key in keys:
                table = table[key]
            table[SOURCE] = found[0][1] if len(found) == 1 else "; ".join(f"{label}: {text}" for label, text in found)
    return whole


def _leaves(values: Mapping[str, Any], place: Keys) -> Iterator[tuple[Keys, Any]]:
    """Yield what is in a table, then what is in the tables inside it."""
    tables = {
        key: value for key, value in values.items() if isinstance(value, dict) and value and not is_constant(value)
    }
    yield from (((*place, key), value) for key, value in values.items() if key not in tables)
    for key, table in tables.items():
        yield from _leaves(table, (*place, key))


def _tables(merged: MergedProfile) -> set[Keys]:
    return {keys[:end] for keys in merged.stated_by for end in range(1, len(keys))}


def _source_table(file: ProfileFile, keys: Keys) -> Keys | None:
    """Return the nearest table around a value that the file gives a source for."""
    ends = range(len(keys) - 1, -1, -1)
    return next((keys[:end] for end in ends if isinstance(_table(file, keys[:end]).get(SOURCE), str)), None)


def _table(file: ProfileFile, keys: Keys) -> Mapping[str, Any]:
    """Return a table as one file states it; empty where it states none."""
    table: Any = file.values
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table if isinstance(table, dict) else {}
