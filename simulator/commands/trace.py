"""`apex trace`: generate, convert and describe request traces."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_specs.command_line import Group, check_outputs, strict_json
from simulator.commands.trace_options import load_workload, trace_options, workload_files

if TYPE_CHECKING:
    from simulator.workload.traces.own_files import OutputFormat

_WORKLOAD_HELP = """
\b
Workloads as one line of text:
  synthetic:chat,rate=2,n=1000,seed=0          open loop; also code, summarization, long-context, reasoning
  synthetic:isl=64-512,osl=128,rate=2,n=1000   lengths fixed, uniform low-high, or lognormal with isl_cv=, osl_cv=
  synthetic:like=FILE,rate=2,n=1000            lengths drawn from a trace
  synthetic:chat,rate=20,max_concurrency=64    at most 64 requests unanswered, as benchmark clients with both flags do
  closed:isl=1024,osl=1024,concurrency=64      closed loop exactly as a benchmark client draws and sends it
  closed:isl=1024,osl=1024,concurrency=64,spread_s=5   its slots send their first requests within 5 s, not at once
  closed:trace=FILE,concurrency=64             a trace's requests, in order, at a concurrency
  replay:trace=FILE,timeout_s=30               a trace's requests at their times from a client that gives up after 30 s
  sessions:chat,rate=0.5,n=200,turns=4         multi-turn sessions with shared prefixes (system=, think_s=, block=)
  groups:groups=10,prompts=10,system=100,isl=50,osl=50,n=1000   prompts that share a beginning by groups and come back
All take timeout_s= (the client gives a request up), replay and synthetic max_concurrency=, closed request_s=.
Arrivals: arrivals=poisson|gamma|constant|burst, cv= (of the gaps).
"""

_to_option = click.option(
    "--to",
    "output_format",
    type=click.Choice(["csv", "jsonl", "parquet", "apex"]),
    help="Format to write, when the suffix does not say (apex: JSONL of the APEX traces).",
)


@click.group(cls=Group, no_args_is_help=True)
def trace() -> None:
    """Generate, convert or describe a request trace."""


@trace.command(epilog=_WORKLOAD_HELP)
@click.argument("workload")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="File to write.")
@_to_option
def generate(workload: str, out: Path, output_format: "OutputFormat | None") -> None:
    """Draw the WORKLOAD and write it; the same text always writes the same file."""
    from simulator.workload.parse import parse_workload
    from simulator.workload.traces.own_files import write_trace

    check_outputs([out], workload_files(workload))
    drawn = parse_workload(workload)
    for note in drawn.notes:
        click.echo(f"note: {note}", err=True)
    write_trace(drawn, out, format=output_format)
    click.echo(f"{out}: {len(drawn)} requests", err=True)


@trace.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@_to_option
@trace_options
def convert(source: str, out: Path, output_format: "OutputFormat | None", **reading: Any) -> None:
    """Read the trace SOURCE (any known format), scale or cut it, and write it to OUT."""
    from simulator.workload.traces.own_files import write_trace

    check_outputs([out], workload_files(source))
    workload = load_workload(source, **reading)
    write_trace(workload, out, format=output_format)
    click.echo(f"{out}: {len(workload)} requests", err=True)


@trace.command()
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@trace_options
def describe(source: str, as_json: bool, **reading: Any) -> None:
    """Print counts, rates, length percentiles, burstiness and prefix sharing of a trace."""
    from simulator.workload.describe import describe_workload

    figures = describe_workload(load_workload(source, **reading))
    if as_json:
        click.echo(strict_json({"schema": 1, **figures}))
        return
    click.echo(_table(figures))


def _media_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return rows of images and audio, where requests hold any."""
    rows = []
    if "images" in figures:
        rows.append(("images", f"{figures['images']:,} of {figures['image_megapixels']:.2f} megapixels on average"))
    if "audio_clips" in figures:
        rows.append(("audio clips", f"{figures['audio_clips']:,} of {figures['audio_s']:.1f} s on average"))
    return rows


def _table(figures: dict[str, Any]) -> str:
    rows = [
        ("requests", f"{figures['requests']:,}"),
        ("client", figures["client"] + _if_any(figures["warmup_requests"], ", {:,} warm-up requests")),
        ("span", f"{figures['span_s']:,.1f} s"),
        ("rate", _or_dash(figures["rate_per_s"], "{:.3g} requests/s")),
        ("busiest 1/60 of the span", _or_dash(figures["peak_to_mean_rate"], "{:.2f} x the mean rate")),
        ("gaps between arrivals", _or_dash(figures["arrival_gap_cv"], "cv {:.2f} (Poisson: 1)")),
        ("prompt-output correlation", _or_dash(figures["prompt_output_correlation"], "{:+.2f}")),
        ("follow-up turns", f"{figures['turns_after_another']:,}"),
        *_media_rows(figures),
        ("prompt tokens seen before", _shared(figures)),
        ("prompt tokens", f"{figures['prompt_tokens']['total']:,}"),
        ("output tokens", f"{figures['output_tokens']['total']:,}"),
    ]
    lines = [f"{label:<26} {value}" for label, value in rows]
    columns = ("mean", "cv", "min", "p50", "p90", "p95", "p99", "max")
    lines += ["", f"{'tokens':<8}" + "".join(f"{column:>9}" for column in columns)]
    for label in ("prompt", "output"):
        summary = figures[f"{label}_tokens"]
        cells = (_or_dash(summary[column], "{:.2f}" if column == "cv" else "{:,.0f}") for column in columns)
        lines.append(f"{label:<8}" + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def _if_any(count: int, form: str) -> str:
    return form.format(count) if count else ""


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _shared(figures: dict[str, Any]) -> str:
    if figures["reusable_prompt_tokens_frac"] is None:
        return "not recorded"
    return f"{figures['reusable_prompt_tokens_frac']:.1%} (blocks of {figures['prefix_block_tokens']})"
