"""`make gpu-campaign`: ``python -m profiler.campaign --db DIR``: all stages in one command, and one archive at its end.

The command itself only keeps a worker alive and packs what it leaves; the worker runs the stages
(`profiler.campaign.stages`) and may be replaced when a kernel takes its process or device down. A command that was cut
short is repeated until it says it is complete. Nothing here asks for a clock.
"""

import sys
import time
from pathlib import Path
from typing import Final

import click

from cluster_specs.command_line import Command, refuse_given, strict_json
from cluster_specs.errors import UserError
from profiler.campaign.archive import pack
from profiler.campaign.course import GRACE_S, MAX_DEATHS
from profiler.campaign.stage_list import DEFAULT_STAGES, LISTED, STAGES, parse_stages
from profiler.duration import format_duration, parse_duration_s
from profiler.planning.grid import FAMILIES
from profiler.ranks import RankPlace

DTYPES: Final = ("bf16", "fp8", "w8a8")
_SHORTEST_S: Final = 10.0
# A power model needs twelve below the power limit, and some of these may be at it.
_ENERGY_POINTS: Final = 14


@click.command(cls=Command)
@click.option("--slice", "slice_text", default="560s", show_default=True, help="Longest one call may take.")
@click.option("--total", "total_text", default="560s", show_default=True, help="Longest all calls may take together.")
@click.option("--db", type=click.Path(path_type=Path, file_okay=False), required=True, help="Output folder.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--dtypes", default=",".join(DTYPES), show_default=True)
@click.option("--target-error", type=float, default=0.03, show_default=True)
@click.option(
    "--stages",
    "stages_text",
    default=DEFAULT_STAGES,
    show_default=True,
    help=f"Stages in order, each with its longest time where it has one: {', '.join(STAGES)}.",
)
@click.option("--families", help=f"Op families of {', '.join(LISTED)}, comma-separated.  [default: all]")
@click.option(
    "--energy-points",
    type=click.IntRange(min=0),
    default=_ENERGY_POINTS,
    show_default=True,
    help="Points whose joules are measured, about 7 s each.",
)
@click.pass_context
def campaign(
    ctx: click.Context,
    /,
    *,
    slice_text: str,
    total_text: str,
    db: Path,
    device: str,
    dtypes: str,
    target_error: float,
    stages_text: str,
    families: str | None,
    energy_points: int,
) -> None:
    """Run the next slice of the campaign."""
    started_s = time.monotonic()
    slice_s, total_s = parse_duration_s(slice_text, "--slice"), parse_duration_s(total_text, "--total")
    stages, chosen = parse_stages(stages_text), _families(families)
    names = {stage.name for stage in stages}
    if "profile" not in names:
        refuse_given(ctx, "target_error", because="--stages leaves the profile out")
    if not names & {"profile", "joules"}:
        refuse_given(ctx, "energy_points", because="--stages leaves joules and the profile out")
    if not names & set(LISTED):
        refuse_given(ctx, "families", because=f"--stages leaves out {', '.join(LISTED)}")
    if not RankPlace.from_environment().is_started:
        if slice_s < _SHORTEST_S:
            raise UserError(f"--slice is {slice_text!r}, must be at least {_SHORTEST_S:g} s")
        from profiler.supervisor import supervise

        code = supervise(
            "profiler.campaign",
            1,
            sys.argv[1:],
            time_option="--slice",
            limit_s=slice_s,
            overrun_s=GRACE_S[device],
            max_restarts=MAX_DEATHS * len(STAGES),
        )
        if db.is_dir():
            click.echo(f"wrote {pack(db)}: everything measured so far", err=True)
        ctx.exit(code)
    from profiler.machine import require_torch

    require_torch()
    from profiler.campaign.stages import Campaign

    work = Campaign(
        db,
        slice_s=slice_s,
        total_s=total_s,
        device=device,
        dtypes=tuple(dtypes.split(",")),
        target_error=target_error,
        stages=stages,
        families=chosen,
        energy_points=energy_points,
        started_s=started_s,
    )
    is_complete = work.run()
    summary = {"complete": is_complete, "spent_s": work.state["spent_s"], "runs": work.state["runs"], **work.results}
    click.echo(strict_json(summary, indent=1))
    if failed := [name for name, result in work.results.items() if "failed" in result]:
        click.echo(f"failed: {', '.join(failed)}; the other stages were run", err=True)
    if not is_complete:
        click.echo(f"not complete after {format_duration(work.spent_s)}: run the same command again", err=True)


def _families(text: str | None) -> tuple[str, ...] | None:
    """Split the list; raises ``UserError`` for a family that the general grid has not."""
    if text is None:
        return None
    families = tuple(part.strip() for part in text.split(","))
    if unknown := sorted(set(families) - set(FAMILIES)):
        raise UserError(f"--families: {', '.join(unknown)} is not among {', '.join(FAMILIES)}")
    return families


if __name__ == "__main__":
    from profiler.__main__ import run_as_program

    run_as_program(campaign, "python -m profiler.campaign")
