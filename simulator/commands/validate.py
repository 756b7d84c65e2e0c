"""`apex validate`: runs of real servers beside what is predicted of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster_specs.command_line import Command, given, strict_json
from simulator.commands.serving_options import asked_of, measured_server_options, say_when_compiling
from simulator.errors import EXIT_INFEASIBLE

if TYPE_CHECKING:
    from simulator.validation.measured_run import MeasuredRun, UnusableRun
    from simulator.validation.predict import Predictor, ValidatedRun

_LIST: Final = ".toml"
_MOST_NOTES: Final = 24


@click.command(cls=Command)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RESULT...")
@measured_server_options
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="Requests that the client kept under way, for results that do not state it.",
)
@click.option(
    "--request-rate",
    "request_rate_per_s",
    type=click.FloatRange(min=0, min_open=True, max=1e9),
    metavar="RATE",
    help="Requests per second that the client sent, for results that do not state it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def validate(context: click.Context, /, *, results: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Replay the requests of benchmark results, and compare what was measured with what is predicted.

    RESULT is a file of a benchmark client (docs/reference/traces.md), or a TOML list of runs of several servers
    (docs/guides/validate_your_server.md). Exit code 3 when no run can be predicted.
    """
    from simulator.report.validation_table import validation_json, validation_text
    from simulator.validation.measured_run import UnusableRun
    from simulator.validation.predict import Predictor

    runs = read_runs(context, results, options)
    predictor = Predictor()
    refuse_idle(context, runs, predictor)
    say_when_compiling()
    found = [run if isinstance(run, UnusableRun) else predictor.predict(run) for run in runs]
    unusable = [run for run in found if isinstance(run, UnusableRun)]
    validated = [run for run in found if not isinstance(run, UnusableRun)]
    notes = _notes(validated)
    for note in notes[:_MOST_NOTES]:
        click.echo(note, err=True)
    if len(notes) > _MOST_NOTES:
        click.echo(f"{len(notes) - _MOST_NOTES} more notes: --json has those of each run", err=True)
    click.echo(strict_json(validation_json(validated, unusable)) if as_json else validation_text(validated, unusable))
    if not validated:
        context.exit(EXIT_INFEASIBLE)


def read_runs(
    context: click.Context, results: tuple[Path, ...], options: dict[str, Any]
) -> "list[MeasuredRun | UnusableRun]":
    """Read results of one server, or lists of runs that say of each which server it was."""
    from cluster_specs.command_line import refuse_given
    from simulator.commands.run_list import read_run_list
    from simulator.validation.read_results import read_results

    lists = [path for path in results if path.suffix == _LIST]
    files = [path for path in results if path.suffix != _LIST]
    if not files:
        refuse_given(context, *options, because="lists of runs state the servers", hint="state it in the list")
    runs = read_results(files, asked_of(**options)) if files else []
    _refuse_two_servers(context, runs, options)
    stated = [option for option in context.command.params if isinstance(option, click.Option)]
    server_options = [option for option in stated if option.name in options]
    for path in lists:
        for own, asked in read_run_list(path, server_options, asked_of):
            runs += read_results(own, asked)
    return runs


def _refuse_two_servers(
    context: click.Context, runs: "list[MeasuredRun | UnusableRun]", options: dict[str, Any]
) -> None:
    """Refuse what the command line says of one server where the results are of several."""
    from cluster_specs.errors import UserError
    from simulator.validation.measured_run import MeasuredRun

    measured = [run for run in runs if isinstance(run, MeasuredRun)]
    for what in ("model", "engine"):
        stated = dict.fromkeys(getattr(run.deployment, what) for run in measured)
        flags = given(context, *(name for name in options if name != "costs"))
        if len(stated) > 1 and flags:
            raise UserError(
                f"the results are of servers with another {what} each ({', '.join(list(stated)[:4])}); "
                f"{', '.join(flags)} cannot be said of all",
                hint="list them in a TOML file with the server of each: docs/guides/validate_your_server.md",
            )


def refuse_idle(context: click.Context, runs: "list[MeasuredRun | UnusableRun]", predictor: "Predictor") -> None:
    """Refuse options that no run can feel."""
    from simulator.commands.cannot_act import refuse_idle_options
    from simulator.validation.measured_run import MeasuredRun

    measured = [run for run in runs if isinstance(run, MeasuredRun)]
    if measured:
        one = measured[0]
        refuse_idle_options(
            context,
            predictor.serving(one.deployment),
            one.workload,
            [run.deployment.layout() for run in measured],
            costs=one.deployment.costs,
        )


def _notes(runs: "list[ValidatedRun]") -> list[str]:
    """Return every note once, in order."""
    return list(dict.fromkeys(note for run in runs for note in (*run.run.notes, *run.notes)))
