"""The options that say how a trace is read, shared by every command that takes one."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from simulator.workload.workload import Workload

Command = TypeVar("Command", bound=Callable[..., Any])


def _pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in values:
        role, equals, key = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not ROLE=KEY, e.g. prompt=input_len")
        if role in pairs:
            raise click.BadParameter(f"{role} is given twice: {pairs[role]!r} and {key!r}")
        pairs[role] = key
    return pairs


def _length_scale(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[float, float]:
    parts = text.split(",")
    try:
        factors = [float(part) for part in parts]
    except ValueError:
        factors = []
    if len(factors) not in {1, 2}:
        raise click.BadParameter(f"{text!r} is not a number or two, e.g. 0.5 or 1,0.5 (prompt,output)")
    return factors[0], factors[-1]


_MEDIA = (
    click.option(
        "--images",
        metavar="N[-M]:WxH[|WxH...]",
        help="Give every request images of these pixels, on top of its prompt: 1:1024x1024, 0-3:1024x768|640x480.",
    ),
    click.option(
        "--audio-s",
        metavar="SECONDS[-SECONDS]",
        help="Give every request an audio clip of that length, or of one drawn in between: 30, 5-30.",
    ),
)

_OPTIONS = (
    click.option("--rate-scale", type=float, default=1.0, help="Multiply the arrival rate."),
    click.option(
        "--length-scale",
        default="1",
        callback=_length_scale,
        metavar="X[,Y]",
        help="Multiply the lengths; two numbers: prompt, output.",
    ),
    click.option("--limit", type=click.IntRange(min=1), help="Use the first N requests only."),
    click.option("--format", "trace_format", default="auto", metavar="NAME", help="Trace format, when not recognised."),
    click.option("--time-unit", type=click.Choice(["s", "ms", "us", "ns"]), help="Unit of the arrival times."),
    click.option("--block-tokens", type=click.IntRange(min=1), help="Tokens per prefix block."),
    click.option(
        "--column",
        "columns",
        multiple=True,
        callback=_pairs,
        metavar="ROLE=KEY",
        help="Read a role (time, prompt, output, replica, hash_ids, request_id, parent_id) from another key.",
    ),
    click.option(
        "--result",
        type=click.IntRange(min=1),
        help="Which of several results in a benchmark client's file; the first is 1.",
    ),
    click.option("--sort", is_flag=True, help="Order the requests by arrival first."),
    click.option(
        "--turns",
        type=click.Choice(["recorded", "after_parent"]),
        default="recorded",
        help="Send follow-up turns at their recorded time, or once the turn before has finished.",
    ),
    *_MEDIA,
)

# What click calls them: the keyword arguments of `load_workload`.
TRACE_OPTION_NAMES = (
    "rate_scale", "length_scale", "limit", "trace_format", "time_unit", "block_tokens", "columns", "sort", "turns",
    "result", "images", "audio_s",
)  # fmt: skip


def trace_options(command: Command) -> Command:
    """Add the reading options to a command; pass what click collects to `load_workload`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def media_options(command: Command) -> Command:
    """Add the options that give requests images and audio to a command that reads no trace, or one without others."""
    for option in reversed(_MEDIA):
        command = option(command)
    return command


def workload_files(text: str) -> list[str]:
    """Return every part of a workload's text that may name a file that is read: ``closed:trace=FILE,concurrency=4``."""
    return [text, *re.split("[:,=]", text)]


def load_workload(trace: str, **options: Any) -> "Workload":
    """Read or generate the workload ``trace`` names and print its notes to stderr; raises UserError.

    ``options`` are what click collects of `trace_options`.
    """
    from simulator.commands.cannot_act import refuse_rate_of_closed_loop
    from simulator.workload.parse import parse_workload

    workload = parse_workload(trace, **reading_of(**options))
    refuse_rate_of_closed_loop(options["rate_scale"], workload)
    for note in workload.notes:
        click.echo(f"note: {note}", err=True)
    return workload


def reading_of(
    *,
    rate_scale: float,
    length_scale: tuple[float, float],
    limit: int | None,
    trace_format: str,
    time_unit: str | None,
    block_tokens: int | None,
    columns: dict[str, str],
    sort: bool,
    turns: str,
    result: int | None,
    images: str | None,
    audio_s: str | None,
) -> dict[str, Any]:
    """Return the arguments of `parse_workload` that the options stand for; those left alone are left out."""
    chosen: dict[str, Any] = {
        "format": trace_format if trace_format != "auto" else None,
        "time_unit": time_unit,
        "block_tokens": block_tokens,
        "columns": columns,
        "sort": sort,
        "turns": turns if turns != "recorded" else None,
        "result": result,
        "images": images,
        "audio_s": audio_s,
    }
    scaled = {"rate_scale": rate_scale, "length_scale": length_scale, "limit": limit}
    return scaled | {name: value for name, value in chosen.items() if value}
