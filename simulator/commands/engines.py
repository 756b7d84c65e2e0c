"""`apex engines`: which engine profiles are bundled, and what a profile states, inherited values included."""

import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import click

from cluster_specs.command_line import Command, refuse_given, strict_json

if TYPE_CHECKING:
    from simulator.engine_profiles.engine_profile import EngineProfile
    from simulator.engine_profiles.inheritance import MergedProfile
    from simulator.engine_profiles.profile_facts import Fact

_WIDTH: Final = 110
_NOBODY: Final = "(default)"


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--toml", "as_toml", is_flag=True, help="Print the whole profile as a TOML file to edit.")
@click.pass_context
def engines(context: click.Context, /, name: str | None, as_json: bool, as_toml: bool) -> None:
    """List bundled engine profiles, or show the profile NAME (bundled, or a TOML path).

    For a version of an engine that has no profile, such as vllm-0.40, the nearest older one stands in, with wider
    intervals: a note says so, here and wherever `--engine` takes it.

    Shown is every value, after inheritance, with the profile that states it (or "(default)", where none does) and the
    sources of each table. A file is checked as `--engine` checks it.
    """
    if name is None:
        refuse_given(context, "as_toml", because="it prints one profile", hint="name one: apex engines NAME --toml")
        bundled = _bundled()
        click.echo(strict_json([_summary(*item) for item in bundled]) if as_json else _list(bundled))
        if not as_json:
            click.echo("* where no --engine is given; a TOML file may extend any of them", err=True)
        return
    if as_json:
        refuse_given(context, "as_toml", because="--json prints the profile another way")
    profile, merged = _load(name)
    _say_what_stands_in(name)
    if as_toml:
        click.echo(_toml(profile, merged), nl=False)
    else:
        click.echo(strict_json(_document(profile, merged)) if as_json else "\n".join(_page(profile, merged)))


def _load(name: str) -> "tuple[EngineProfile, MergedProfile]":
    from simulator.engine_profiles.bundled_profiles import is_path, profile_for
    from simulator.engine_profiles.engine_profile import check_profile
    from simulator.engine_profiles.inheritance import merge_profile

    merged = merge_profile(name if is_path(name) else profile_for(name))
    return check_profile(merged), merged


def _say_what_stands_in(name: str) -> None:
    from simulator.engine_profiles.engine_profile import load_profile
    from simulator.feasible.stand_ins import stand_in_version

    profile = load_profile(name)
    found = stand_in_version(profile)
    if found is not None:
        click.echo(found.note(profile.spread), err=True)


def _bundled() -> "list[tuple[EngineProfile, MergedProfile]]":
    """Return the bundled profiles, newest version of an engine first."""
    from simulator.engine_profiles.bundled_profiles import bundled_profiles

    found = sorted(map(_load, bundled_profiles()), key=lambda item: item[0].release or (0, 0), reverse=True)
    return sorted(found, key=lambda item: item[0].engine)


def _summary(profile: "EngineProfile", merged: "MergedProfile") -> dict[str, Any]:
    from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE

    return {
        "name": profile.name,
        "is_default": profile.name == DEFAULT_PROFILE,
        "engine": profile.engine,
        "version": profile.version,
        "policy": profile.policy,
        "extends": [file.label for file in merged.files[1:]],
        "limits": [item.model_dump(mode="json") for item in profile.limits],
    }


def _list(bundled: "list[tuple[EngineProfile, MergedProfile]]") -> str:
    rows = [("  profile", "engine", "version", "policy", "extends", "tokens per step", "sequences")]
    for profile, merged in bundled:
        facts = _summary(profile, merged)
        tokens, seqs = (
            _range([getattr(limits, name) for limits in profile.limits if limits.kind != "cpu"])
            for name in ("max_num_batched_tokens", "max_num_seqs")
        )
        name = f"{'*' if facts['is_default'] else ' '} {profile.name}"
        parent = (facts["extends"] or ["-"])[0]
        rows.append((name, profile.engine, profile.version, profile.policy, parent, tokens, seqs))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _range(values: list[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)}-{max(values)}"


def _document(profile: "EngineProfile", merged: "MergedProfile") -> dict[str, Any]:
    from simulator.engine_profiles.profile_facts import iter_facts

    return _summary(profile, merged) | {
        "facts": [
            {
                "key": fact.key,
                "value": fact.value,
                "error": fact.error,
                "stated_by": fact.stated_by,
                "source": fact.source,
            }
            for fact in iter_facts(profile, merged)
        ]
    }


def _page(profile: "EngineProfile", merged: "MergedProfile") -> Iterator[str]:
    """Yield a section per table: its values, who states each, and where they say they have them from."""
    from simulator.engine_profiles.profile_facts import iter_facts, sources

    parents = ", ".join(file.label for file in merged.files[1:])
    yield f"{profile.name} extends {parents}" if parents else profile.name
    facts = list(iter_facts(profile, merged))
    by = max(len(label) for label in (_NOBODY, *(file.label for file in merged.files)))
    for table, inside in groupby(facts, key=lambda fact: fact.keys[:1] if len(fact.keys) > 1 else ()):
        yield ""
        if table:
            yield f"[{table[0]}]"
        section = list(inside)
        width = max(len(_below(fact.keys, table)) for fact in section)
        for fact in section:
            yield from _rows(fact, f"  {_below(fact.keys, table):{width}}  {fact.stated_by or _NOBODY:{by}}  ")
        parts = dict.fromkeys(fact.keys[:end] for fact in section for end in range(len(table), len(fact.keys)))
        for part in parts:
            of = f" of {_below(part, table)}" if part != table else ""
            for label, text in sources(merged, part):
                yield from _hanging(f"  source{of} ({label}): ", text, 4)


def _below(keys: tuple[str, ...], table: tuple[str, ...]) -> str:
    return ".".join(keys[len(table) :])


def _rows(fact: "Fact", head: str) -> Iterator[str]:
    from cluster_specs.files.toml_text import toml_value

    entries = fact.value if fact.key == "limits" else [fact.stated]
    for number, value in enumerate(entries):
        text = "none" if value is None else toml_value(value)
        yield from _hanging(head if number == 0 else " " * len(head), text, len(head))


def _hanging(head: str, text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        width=max(_WIDTH, indent + 60),
        initial_indent=head,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _toml(profile: "EngineProfile", merged: "MergedProfile") -> str:
    from cluster_specs.files.shown import shown
    from cluster_specs.files.toml_text import toml_text
    from simulator.engine_profiles.bundled_profiles import bundled_profiles
    from simulator.engine_profiles.profile_facts import whole_profile

    whole = whole_profile(profile, merged)
    if merged.files[0].label in bundled_profiles():
        whole["name"] = f"my-{profile.name}"
    hint = "A file that extends it and states what differs is shorter, and outlives new keys."
    return f"# All of {shown(profile.name)}. {hint}\n{toml_text(whole)}"
