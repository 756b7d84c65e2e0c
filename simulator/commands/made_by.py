"""What made an answer, kept in its JSON: the command, the version of apex, and a digest of everything it read.

The command is kept as its options were written, without those that say where the answer goes and how it looks: equal
answers are then equal to the byte, whatever they were written to.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from cluster_specs.command_line import words_of

if TYPE_CHECKING:
    from simulator.results.objective import Objective, Slo
    from simulator.serving import Serving
    from simulator.workload.parts import Traffic

# The text of an option's values, by its name; a flag's value is the flag as it was written.
Stated = Mapping[str, tuple[str, ...]]

_NOT_OF_THE_ANSWER: Final = frozenset(
    {"as_json", "explain_space", "out", "report", "state", "threads", "requests_out", "iterations_out", "chrome_trace"}
)


def made_by(context: click.Context, rests_on: Mapping[str, str]) -> dict[str, Any]:
    """Return what `apex rerun` and `apex whatif` start from; ``rests_on`` as ``digests`` returns it."""
    from importlib.metadata import version

    command = [str(context.info_name), *words_for(context.command, read_words(context.command, words_of(context)))]
    return {"version": version("apex-planner"), "command": command, "rests_on": dict(rests_on)}


def digests(
    serving: "Serving",
    workload: "Traffic",
    slo: "Slo",
    options: Mapping[str, Any],
    objectives: "Sequence[Objective]" = (),
) -> Mapping[str, str]:
    """Return a digest by input that the answer rests on; ``options`` are those of `serving_options`."""
    from simulator.results.objective import wants_capacity
    from simulator.search.rests_on import rests_on

    prices = {name: options[name] for name in ("costs", "out_of_domain", "extensions")}
    return rests_on(serving, workload, slo, wants_capacity=wants_capacity(objectives), **prices)


def options_of_answer(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command that its answer depends on, by name."""
    options = (parameter for parameter in command.params if isinstance(parameter, click.Option))
    return {str(option.name): option for option in options if option.name not in _NOT_OF_THE_ANSWER}


def read_words(command: click.Command, words: Sequence[str]) -> Stated:
    """Read the options that the answer depends on from a command line; raises click's errors for what is no option."""
    values, _, order = command.make_parser(click.Context(command, info_name=command.name)).parse_args(list(words))
    known = options_of_answer(command)
    stated: dict[str, tuple[str, ...]] = {}
    for parameter in order:
        option = known.get(str(parameter.name))
        if option is None:
            continue
        value = values[str(option.name)]
        if option.is_flag:
            stated[str(option.name)] = ((option.opts if value else option.secondary_opts)[0],)
        else:
            stated[str(option.name)] = tuple(map(str, value)) if option.multiple else (str(value),)
    return stated


def words_for(command: click.Command, stated: Stated) -> list[str]:
    """Return a command line that ``read_words`` reads back; empty values are left out."""
    known = options_of_answer(command)
    words = []
    for name, values in stated.items():
        for value in values:
            words += [value] if known[name].is_flag else [known[name].opts[-1], value]
    return words
