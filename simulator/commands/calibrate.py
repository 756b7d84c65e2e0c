"""`apex calibrate`: constants of an engine profile from runs of a server, and the runs worth making."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster_specs.command_line import check_outputs, refuse_given, strict_json
from simulator.commands.serving_options import load_serving, measured_server_options, say_when_compiling
from simulator.commands.unmodelled_options import ServingCommand

if TYPE_CHECKING:
    from simulator.plan.plan import Plan

_FEWEST, _MOST, _USUAL = 3, 6, 4
_PLANNING: Final = ("plans", "count")
_READING: Final = ("output", "constants", "plan", "concurrency", "request_rate_per_s")


@click.command(cls=ServingCommand)
@click.argument("results", nargs=-1, type=click.Path(path_type=Path), metavar="[RESULT]...")
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
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Engine profile to write (TOML), which --engine takes.",
)
@click.option(
    "--constant",
    "constants",
    multiple=True,
    metavar="KEY",
    help="Estimate this one; all that the runs tell without it. Again for more.",
)
@click.option("--plan-runs", is_flag=True, help="Print the runs worth making instead, as commands; reads no results.")
@click.option("--plans", metavar="PLAN,PLAN", help="Plans for --plan-runs; smallest and largest tp without it.")
@click.option(
    "--runs", "count", type=click.IntRange(_FEWEST, _MOST), default=_USUAL, show_default=True, help="For --plan-runs."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def calibrate(
    context: click.Context,
    /,
    *,
    results: tuple[Path, ...],
    output: Path | None,
    constants: tuple[str, ...],
    plan_runs: bool,
    plans: str | None,
    count: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Estimate the constants of an engine profile that runs of one server tell, and write a profile with them.

    RESULT is what `apex validate` takes: files of a benchmark client, or a TOML list of runs. At least three runs are
    needed. Where they are likelier of a server as the profile has it, the profile's values are kept.
    """
    if plan_runs:
        if results:
            raise click.UsageError("--plan-runs says which runs to make: it takes no results")
        refuse_given(context, *_READING, because="--plan-runs reads no results and writes no profile")
        click.echo(_planned(plans, count, options, as_json=as_json))
        return
    refuse_given(context, *_PLANNING, because="they say what --plan-runs plans")
    if not results:
        raise click.UsageError("Missing argument 'RESULT...': name results, or ask for --plan-runs")
    _calibrated(context, results, output, constants, options, as_json=as_json)


def _calibrated(
    context: click.Context,
    results: tuple[Path, ...],
    output: Path | None,
    constants: tuple[str, ...],
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from cluster_specs.files.whole import write_text
    from simulator.calibration.calibrate import calibrate as calibrated
    from simulator.calibration.profile_file import profile_text
    from simulator.commands.serving_options import profile_files
    from simulator.commands.validate import read_runs, refuse_idle
    from simulator.report.calibration_table import calibration_json, calibration_text
    from simulator.validation.predict import Predictor

    check_outputs([output], results)
    runs = read_runs(context, results, options)
    refuse_idle(context, runs, Predictor())
    say_when_compiling()
    found = calibrated(runs, constants)
    check_outputs([output], profile_files(found.runs[0].deployment.engine))
    for note in found.notes:
        click.echo(note, err=True)
    click.echo(strict_json(calibration_json(found)) if as_json else calibration_text(found))
    if output is not None:
        write_text(output, profile_text(found, output))
        click.echo(f"wrote {output}: --engine {output} takes it", err=True)


def _planned(plans: str | None, count: int, options: dict[str, Any], *, as_json: bool) -> str:
    from simulator.calibration.plan_runs import plan_runs
    from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE
    from simulator.report.planned_runs import planned_json, planned_lines

    for name in ("model", "cluster"):
        if options[name] is None:
            raise click.UsageError(f"--plan-runs needs --{name}")
    asked = {name: value for name, value in options.items() if name not in _READING}
    asked["engine"] = asked["engine"] or DEFAULT_PROFILE
    serving = load_serving(usd_per_device_hour=None, **asked)
    say_when_compiling()
    found = plan_runs(serving, _parsed(plans), count)
    model = options["model"]
    if as_json:
        return strict_json(planned_json(found, serving, model))
    return "\n".join(planned_lines(found, serving, model))


def _parsed(plans: str | None) -> "list[Plan]":
    from simulator.plan.plan import parse_plan

    return [] if plans is None else [parse_plan(text) for text in plans.split(",")]
