"""`make gpu-campaign`: ``python -m profiler.campaign --slice 9m --db DIR``, repeated until it says it is complete.

The command itself only keeps a worker alive; the worker runs the stages (`profiler.campaign.stages`) and may be
replaced when a kernel takes its process or device down. Nothing here asks for a clock.
"""

import sys
from pathlib import Path
from typing import Final

import click

from cluster_specs.command_line import Command, strict_json
from cluster_specs.errors import UserError
from profiler.duration import format_duration, parse_duration_s
from profiler.ranks import RankPlace

DTYPES: Final = ("bf16", "fp8", "w8a8")
_SHORTEST_S: Final = 10.0


@click.command(cls=Command)
@click.option("--slice", "slice_text", default="9m", show_default=True, help="Longest one call may take.")
@click.option("--total", "total_text", default="25m", show_default=True, help="Longest all calls may take together.")
@click.option("--db", type=click.Path(path_type=Path, file_okay=False), required=True, help="Output folder.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--dtypes", default=",".join(DTYPES), show_default=True)
@click.option("--target-error", type=float, default=0.03, show_default=True)
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
) -> None:
    """Run the next slice of the campaign."""
    slice_s, total_s = parse_duration_s(slice_text, "--slice"), parse_duration_s(total_text, "--total")
    if not RankPlace.from_environment().is_started:
        if slice_s < _SHORTEST_S:
            raise UserError(f"--slice is {slice_text!r}, must be at least {_SHORTEST_S:g} s")
        from profiler.supervisor import supervise

        ctx.exit(supervise("profiler.campaign", 1, sys.argv[1:], time_option="--slice", limit_s=slice_s))
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
    )
    is_complete = work.run()
    click.echo(strict_json({"complete": is_complete, **work.state}, indent=1))
    if not is_complete:
        click.echo(f"not complete after {format_duration(work.spent_s)}: run the same command again", err=True)


if __name__ == "__main__":
    from profiler.__main__ import run_as_program

    run_as_program(campaign, "python -m profiler.campaign")
