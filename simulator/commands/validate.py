"""`apex validate`: runs of real servers beside what is predicted of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster_specs.command_line import given, strict_json
from simulator.commands.serving_options import asked_of, measured_server_options, say_when_compiling
from simulator.commands.unmodelled_options import ServingCommand
from simulator.errors import EXIT_INFEASIBLE

if TYPE_CHECKING:
    from simulator.validation.measured_run import MeasuredRun, UnusableRun
    from simulator.validation.predict import Predictor, ValidatedRun

_LIST: Final = ".toml"
_MOST_NOTES: Final = 24


@click.command(cls=ServingCommand)
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
@click.option(
    "--mapping",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="TOML",
    help="RESULT is a table (CSV) of measured points, whose columns and servers this file explains.",
)
@click.option(
    "--parts/--no-parts",
    default=None,
    help="Tell which part of a server its difference sits in; done without it where all runs are of one server.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Write the comparison as one page with figures (needs the extra 'report').",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def validate(
    context: click.Context,
    /,
    *,
    results: tuple[Path, ...],
    mapping: Path | None,
    parts: bool | None,
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Replay the requests of benchmark results, and compare what was measured with what is predicted.

    RESULT is a file of a benchmark client (docs/reference/traces.md), or a TOML list of runs of several servers
    (docs/guides/validate_your_server.md), or with --mapping a table of measured points
    (docs/guides/validate_a_table.md). Exit code 3 when no run can be predicted.
    """
    from simulator.report.validation_report import check_report, write_report
    from simulator.report.validation_table import validation_json, validation_text
    from simulator.validation.predict import Predictor
    from simulator.validation.predict_all import predict_all

    if report is not None:
        check_report(report)
    runs = read_runs(context, results, options) if mapping is None else _read_tables(context, results, mapping, options)
    predictor = Predictor()
    if mapping is None:
        refuse_idle(context, runs, predictor)
    say_when_compiling()
    found = predict_all(runs, predictor, tells_parts=parts)
    notes = _notes(found.runs)
    for note in notes[:_MOST_NOTES]:
        click.echo(note, err=True)
    if len(notes) > _MOST_NOTES:
        click.echo(f"{len(notes) - _MOST_NOTES} more notes: --json has those of each run", err=True)
    click.echo(strict_json(validation_json(found)) if as_json else validation_text(found))
    if report is not None:
        for path in write_report(report, found):
            click.echo(f"wrote {path}", err=True)
    if not found.runs:
        context.exit(EXIT_INFEASIBLE)


def _read_tables(
    context: click.Context, tables: tuple[Path, ...], mapping: Path, options: dict[str, Any]
) -> "list[MeasuredRun | UnusableRun]":
    """Read tables of measured points, whose mapping states the servers."""
    from cluster_specs.command_line import refuse_given
    from simulator.validation.read_points import read_point_table

    refuse_given(
        context, *options, because="the mapping states the servers and their load", hint=f"state it in {mapping}"
    )
    return [run for table in tables for run in read_point_table(table, mapping).runs()]


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
    from simulator.commands.cannot_act import refuse_idle_caching, refuse_idle_options
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
        refuse_idle_caching(context, [(predictor.serving(run.deployment), run.workload) for run in measured])


def _notes(runs: "Sequence[ValidatedRun]") -> list[str]:
    """Return every note once, in order."""
    return list(dict.fromkeys(note for run in runs for note in (*run.run.notes, *run.notes)))
