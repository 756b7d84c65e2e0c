"""A saved answer of `apex search` or `apex simulate`, and the same command run again, with options changed or not."""

import contextlib
import difflib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import read_document
from cluster_specs.lazy_dataclass import dataclass
from simulator.commands.made_by import Stated, options_of_answer, read_words, words_for

_COMMANDS: Final = ("search", "simulate")
_HINT: Final = "pass what `apex search --json` or `apex simulate --json` printed, or what --out wrote"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedAnswer:
    """The JSON of an answer, and the command that made it with its options as they were written."""

    document: dict[str, Any]
    command: click.Command
    options: Stated

    @property
    def words(self) -> list[str]:
        """The command line, its name first."""
        return [str(self.command.name), *words_for(self.command, self.options)]


def read_answer(path: Path) -> SavedAnswer:
    """Read a saved answer; raises ``UserError`` for what is none, or does not say how it was made."""
    place, document = str(path), parse_json(read_document(path, hint=_HINT), str(path), hint=_HINT)
    made_by = document.get("made_by") if isinstance(document, dict) else None
    if not isinstance(made_by, dict):
        raise UserError(f"{place}: does not say what made it (made_by)", hint=f"{_HINT}; versions before 0.1 did not")
    words, rests_on = made_by.get("command"), made_by.get("rests_on")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not words:
        raise UserError(f"{place}: made_by.command must be a list of words", hint=_HINT)
    if not isinstance(rests_on, dict) or not all(isinstance(value, str) for value in rests_on.values()):
        raise UserError(f"{place}: made_by.rests_on must be a digest by input", hint=_HINT)
    if words[0] not in _COMMANDS:
        raise UserError(f"{place}: made_by.command is {words[0]!r}, must be {' or '.join(_COMMANDS)}", hint=_HINT)
    command = _command(words[0])
    return SavedAnswer(document=document, command=command, options=read_words(command, words[1:]))


def with_changes(saved: SavedAnswer, changes: Sequence[str]) -> SavedAnswer:
    """Change options as ``NAME=VALUE`` says, each by its long flag; an empty value takes the option away.

    An option that may be given several times takes all its values from here. Raises ``UserError``.
    """
    options = dict(saved.options)
    seen: set[str] = set()
    by_flag = {option.opts[-1].lstrip("-"): option for option in options_of_answer(saved.command).values()}
    for change in changes:
        name, equals, value = change.partition("=")
        name = name.strip().lstrip("-")
        option = by_flag.get(name)
        if option is None or not equals:
            close = difflib.get_close_matches(name, by_flag, n=3)
            raise UserError(
                f"--set {change!r} is not OPTION=VALUE of apex {saved.command.name}",
                hint=f"did you mean {' or '.join(close)}?" if close else f"options: {', '.join(sorted(by_flag))}",
            )
        key = str(option.name)
        if key in seen and not option.multiple:
            raise UserError(f"--set {change!r}: {name} is set twice")
        kept = options.get(key, ()) if key in seen else ()
        seen.add(key)
        options[key] = (*kept, _value(option, change, value)) if value else ()
    return replace(saved, options=options)


def run_again(saved: SavedAnswer) -> dict[str, Any]:
    """Run the command of an answer and return its JSON; what it says on stderr is said.

    A command that ends without an answer ends this one, by the same error or exit code.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        saved.command.main([*saved.words[1:], "--json"], prog_name=str(saved.command.name), standalone_mode=False)
    answer: dict[str, Any] = json.loads(printed.getvalue())
    return answer


def _command(name: str) -> click.Command:
    if name == "search":
        from simulator.commands.search import search

        return search
    from simulator.commands.simulate import simulate

    return simulate


def _value(option: click.Option, change: str, value: str) -> str:
    if not option.is_flag:
        return value
    flags = {"true": option.opts[0], "false": option.secondary_opts[0] if option.secondary_opts else ""}
    if not flags.get(value.lower()):
        known = "true or false" if option.secondary_opts else "true, or nothing to take it away"
        raise UserError(f"--set {change!r}: the value of a flag is {known}")
    return flags[value.lower()]
