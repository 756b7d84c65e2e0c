"""`apex profile`: options, the summary, and nothing else; `apex doctor` is found here too.

The same command starts the ranks of this node (``--nproc-per-node``) and looks after them, or is one rank of a run that
it or torchrun started (``python -m profiler``).
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from cluster_specs.command_line import Command, refuse_given, strict_json
from profiler.doctor.command import doctor
from profiler.errors import LAUNCHER_LOST, TRY_AGAIN_EXIT_CODE

if TYPE_CHECKING:
    from profiler.request import ProfileRequest
    from profiler.run import Outcome

__all__ = ["doctor", "profile"]


# What chooses points and how they are measured.
_OF_A_RUN: Final = (
    *(
        "manifest",
        "extensions",
        "families",
        "dtypes",
        "kernels",
        "caches",
        "clocks_mhz",
        "energy",
        "budget",
        "target_error",
        "prior",
    ),
    *("exhaustive", "db", "nproc_per_node", "seed"),
)
# By what stopped the run.
_EXIT_CODES: Final = {None: 0, "SIGINT": 130, "SIGTERM": 143, LAUNCHER_LOST: TRY_AGAIN_EXIT_CODE}


def _strings(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:  # noqa: ARG001
    """Split a comma-separated option; None where it was not given."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def _integers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Split a comma-separated option of whole numbers."""
    try:
        return tuple(int(part) for part in _strings(ctx, param, value) or ())
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a comma-separated list of whole numbers", ctx, param) from error


@click.command(cls=Command)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--device-name", help="Name for the rows' device column.  [default: the bundled spec this device is]")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Shapes to measure, written by `apex shapes`.  [default: a general grid]",
)
@click.option(
    "--extension",
    "extensions",
    multiple=True,
    metavar="FILE|MODULE",
    help="Python file or module that declares ops of the manifest with kernels of your own.",
)
@click.option("--families", callback=_strings, help="Op families, comma-separated.  [default: all of the manifest]")
@click.option(
    "--dtypes",
    callback=_strings,
    help="Formats, comma-separated: bf16,fp16,fp32,fp8,fp8_block,w8a8,w8a16,w4a16,mxfp4.",
)
@click.option(
    "--kernels",
    callback=_strings,
    help="Sources of kernels in order, e.g. vllm,torch: the first that has an op measures it.  [default: each one]",
)
@click.option(
    "--cache",
    "caches",
    callback=_strings,
    help="State of operands: cold, hot or both.  [default: as in serving, small ops hot, all others cold]",
)
@click.option("--clocks", "clocks_mhz", callback=_integers, help="SM clocks to lock, e.g. 1980,1410,810.")
@click.option(
    "--energy",
    type=click.Choice(["none", "some", "all"]),
    default="none",
    show_default=True,
    help="Measure joules of no point, of some (48 per clock), or of all, about 7 s each.",
)
@click.option("--budget", help="Stop after this long, e.g. 60s, 20m, 1h.  [default: when the plan is fulfilled]")
@click.option("--target-error", type=float, default=0.02, show_default=True, help="Held-out error to stop at.")
@click.option(
    "--prior",
    default="auto",
    show_default=True,
    help="Fit the plan may start from: a file, a device with a bundled fit, or none.  auto: the device's own.",
)
@click.option("--exhaustive", is_flag=True, help="Measure every point instead of stopping at the target error.")
@click.option("--db", type=click.Path(path_type=Path, file_okay=False), help="Output folder.  [default: APEX_DB]")
@click.option("--nproc-per-node", type=click.IntRange(1), default=1, show_default=True, help="Ranks to start here.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads per rank.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--dry-run", is_flag=True, help="Print what would be measured, its cost, what --budget reaches.")
@click.option("--self-test", is_flag=True, help="Measure known quantities against the device's spec, then stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.pass_context
def profile(ctx: click.Context, /, *, nproc_per_node: int, as_json: bool, self_test: bool, **options: Any) -> None:
    """Measure this machine's ops into Parquet. The same command resumes a run that was cut off."""
    from profiler.ranks import RankPlace

    if self_test:
        refuse_given(ctx, *_OF_A_RUN, "dry_run", "as_json", because="--self-test measures known quantities alone")
    if options["exhaustive"]:
        refuse_given(ctx, "target_error", because="--exhaustive measures every point, whatever the error")
    place = RankPlace.from_environment()  # while its launcher is surely there
    request = _request(**options)
    if self_test:
        ctx.exit(_self_test(request, place))
    if request.dry_run:
        _dry_run(request, place, nproc_per_node, as_json=as_json)
        return
    if not place.is_started:
        from profiler.supervisor import supervise

        arguments = _rank_arguments(sys.argv)
        code = supervise("profiler", nproc_per_node, arguments, time_option="--budget", limit_s=request.budget_s)
        ctx.exit(code)
    outcome = _measure(request, place)
    if place.rank == 0:
        _refuse_empty(outcome)
        click.echo(strict_json(asdict(outcome), indent=None) if as_json else _summary(outcome))
    ctx.exit(_EXIT_CODES[outcome.stopped_by])


def _request(**options: Any) -> "ProfileRequest":
    """Check what click cannot; raises ``UserError``."""
    from cluster_specs.errors import UserError
    from costmodel.extension.load import load_ops
    from profiler.duration import parse_duration_s
    from profiler.planning.grid import FAMILIES
    from profiler.request import ProfileRequest
    from profiler.timing import TimingPolicy
    from profiles_db.manifest import load_manifest
    from profiles_db.schema import FAMILIES as SCHEMAS
    from profiles_db.store import check_device_name, open_store

    budget = options.pop("budget")
    if options["device_name"] is not None:  # measured rows could not be stored under it
        check_device_name(options["device_name"], "--device-name")
    db = open_store(options.pop("db"), bundled=None).root
    caches = options["caches"]
    if caches is not None and (not caches or set(caches) - {"cold", "hot"}):
        raise UserError(f"--cache is {','.join(caches)!r}, must be cold, hot or cold,hot")
    if (manifest := options["manifest"]) is not None:
        load_manifest(manifest)  # a bad file is told before torch takes its seconds to load
    load_ops(options["extensions"])  # as a bad manifest, before torch
    if options["extensions"] and manifest is None:
        raise UserError(
            f"--extension {options['extensions'][0]}: an op of your own is measured at the sizes of a model",
            hint="write them with `apex shapes --extension`, and give the file as --manifest",
        )
    unknown = sorted(set(options["families"] or ()) - set(FAMILIES if manifest is None else SCHEMAS))
    if unknown:
        known = ", ".join(FAMILIES if manifest is None else SCHEMAS)
        raise UserError(f"--families: {', '.join(unknown)} is not among {known}")
    if options["prior"] not in {"auto", "none"}:
        try:
            from costmodel.fitting.prior import Prior
        except ImportError as error:
            raise UserError(
                f"--prior {options['prior']} cannot be opened: {error}",
                hint="pip install 'apex-planner[profile]', or start from no fit with --prior none",
            ) from error
        Prior.choose(options["prior"], "")  # a bad file is told now, not on every rank
    if options["target_error"] <= 0:
        raise UserError(f"--target-error is {options['target_error']:g}, must be > 0", hint="0.02 means 2 %")
    policy = TimingPolicy()
    budget_s = parse_duration_s(budget, "--budget") if budget is not None else None
    if budget_s is not None and budget_s < policy.longest_s:
        raise UserError(
            f"--budget is {budget!r}, below the {policy.longest_s:g} s of one point",
            hint="`--dry-run` says what a budget reaches",
        )
    return ProfileRequest(
        **options,
        db=db,
        budget_s=budget_s,
        policy=policy,
        command=("apex", "profile", *sys.argv[1:]),
    )


def _rank_arguments(argv: list[str]) -> list[str]:
    """Return this command's own options for a rank: all but the program and command names."""
    start = argv.index("profile") + 1 if "profile" in argv[:2] else 1
    return argv[start:]


def _measure(request: "ProfileRequest", place: Any) -> "Outcome":
    from profiler.machine import require_torch

    require_torch()
    from profiler.session import profile as run_profile

    return run_profile(request, place, lambda line: click.echo(line, err=True))


def _refuse_empty(outcome: "Outcome") -> None:
    """Raise ``UserError`` where the budget was over before the first point."""
    from cluster_specs.errors import UserError
    from profiler.duration import format_duration

    if outcome.is_empty:
        raise UserError(
            f"--budget was over before the first point: starting took {format_duration(outcome.wall_s)}",
            hint="give more time; `--dry-run` says what a budget reaches",
        )


def _summary(outcome: "Outcome") -> str:
    """Lines for a person."""
    from profiler.duration import format_duration

    statuses = ", ".join(f"{count} {status}" for status, count in sorted(outcome.statuses.items())) or "none"
    lines = [
        f"device {outcome.device}, run {outcome.run_id}: {outcome.measured} rows in {format_duration(outcome.wall_s)} "
        f"({statuses}); {outcome.already} already measured"
    ]
    if outcome.drift_frac is not None:
        lines.append(f"drift: {outcome.drift_points} points measured again, median change {outcome.drift_frac:+.1%}")
    lines += [f"note: {note}" for note in outcome.notes]
    lines += [f"left out: {sentence}" for sentence in outcome.left_out]
    if outcome.stopped_by:
        lines.append(f"stopped by {outcome.stopped_by}; the same command resumes")
    return "\n".join(lines)


def _dry_run(request: "ProfileRequest", place: Any, nproc_per_node: int, *, as_json: bool) -> None:
    from profiler.machine import require_torch
    from profiler.ranks import RankPlace

    if place.rank:  # torchrun starts every rank, one of them answers
        return
    require_torch()
    from profiler.planning.dry_run import describe, survey

    if not place.is_started:
        place = RankPlace(world_size=nproc_per_node, ranks_per_node=nproc_per_node)
    surveyed = survey(request, place)
    click.echo(strict_json(asdict(surveyed), indent=None) if as_json else describe(surveyed))


def _self_test(request: "ProfileRequest", place: Any) -> Literal[0, 1]:
    from cluster_specs.errors import UserError
    from profiler.device_spec import device_spec
    from profiler.machine import Machine
    from profiler.selftest import self_test

    with Machine.open(request.device, request.device_name, place, threads=request.threads) as machine:
        spec = device_spec(machine.name)
        if spec is None:
            raise UserError(
                f"no bundled spec of {machine.name}, so there is nothing to hold it against",
                hint="`apex clusters` lists the bundled devices; --device-name names one of them",
            )
        result = self_test(spec, machine.device, gpu=machine.gpu)
    for line in result.lines():
        click.echo(line)
    return 0 if result.is_trusted else 1
