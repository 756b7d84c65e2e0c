"""Lists of measured runs: a TOML file that says of each result which server it was measured on.

Keys are the options of `apex validate` with underscores, those at the top hold for every run that does not state its
own::

    cluster = "h100-sxm-8"
    engine = "vllm-0.19"

    [[run]]
    result = "tp4-c16.json"            # beside this file; a list names several of one server
    plan = "tp4"
    max_num_seqs = 128

What names a file is looked for beside the list first.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown

if TYPE_CHECKING:
    from simulator.validation.asked import Asked

_RUNS: Final = "run"
_RESULT: Final = "result"
_FILES: Final = ("model", "cluster", "engine", "costs", "extension")  # may name a file, beside the list or elsewhere
_HINT: Final = "docs/guides/validate_your_server.md shows a list"


def read_run_list(
    path: Path, options: Sequence[click.Option], asked_of: Callable[..., "Asked"]
) -> list[tuple[list[Path], "Asked"]]:
    """Return the results of each run of a list, with what is said of their server.

    ``options`` are those of the command, which say what a key may hold, and ``asked_of`` takes their values. Raises
    ``UserError`` by place and key.
    """
    from cluster_specs.files.toml_model import read_values

    table = read_values(path, hint=_HINT)
    runs = table.pop(_RUNS, None)
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise UserError(f"{path}: has no list of runs", hint=f"state each under [[{_RUNS}]]: {_HINT}")
    known = {option.opts[0].removeprefix("--").replace("-", "_"): option for option in options}
    if _RESULT in table:
        raise UserError(f"{path}: {_RESULT} stands at the top", hint=f"state it under [[{_RUNS}]]")
    defaults = click.Command("run", params=list(options)).make_context("run", []).params
    found = []
    for number, own in enumerate(runs, start=1):
        place = f"{path}: run {number}"
        results = _results(own.pop(_RESULT, None), place, path.parent)
        values = dict(defaults)
        for key, value in {**table, **own}.items():
            option = _option(known, key, place)
            beside = _beside(value, path.parent) if key in _FILES else value
            values[str(option.name)] = _checked(option, key, beside, place)
        found.append((results, asked_of(**values)))
    return found


def _results(value: object, place: str, folder: Path) -> list[Path]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise UserError(f"{place}: {_RESULT} is {shown(value)}, must be a file or a list of files", hint=_HINT)
    return [folder / text for text in texts]


def _option(known: Mapping[str, click.Option], key: str, place: str) -> click.Option:
    if key not in known:
        close = difflib.get_close_matches(key, known, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"keys are {_RESULT}, {', '.join(known)}"
        raise UserError(f"{place}: {shown(key)} is no key of a run", hint=hint)
    return known[key]


def _beside(value: object, folder: Path) -> object:
    if isinstance(value, list):
        return [_beside(item, folder) for item in value]
    return str(folder / value) if isinstance(value, str) and value and (folder / value).exists() else value


def _checked(option: click.Option, key: str, value: object, place: str) -> Any:
    """Return a value as the command line would hand it over; its kind is that of TOML, nothing is converted."""
    if option.multiple:
        values = value if isinstance(value, list) else [value]
        return tuple(_one(option, key, item, place) for item in values)
    return _one(option, key, value, place)


def _one(option: click.Option, key: str, value: object, place: str) -> Any:
    if option.is_flag:
        kind, is_right = "true or false", isinstance(value, bool)
    elif isinstance(option.type, click.IntRange):
        kind, is_right = "a whole number", type(value) is int
    elif isinstance(option.type, click.FloatRange):
        kind, is_right = "a number", isinstance(value, int | float) and not isinstance(value, bool)
    else:
        kind, is_right = "a text", isinstance(value, str)
    if not is_right:
        raise UserError(f"{place}: {key} is {shown(value)}, must be {kind}")
    try:
        return option.type.convert(value, option, None)
    except click.BadParameter as error:
        raise UserError(f"{place}: {key}: {error.message}") from error
