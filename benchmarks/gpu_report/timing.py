"""Our timer beside `do_bench`, like beside like, and whole steps beside the sum of their kernels."""

import statistics
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from benchmarks.gpu_report.markdown import short, table

# A way of timing leaves operands either in the cache or out of it: it is held against ours in the same state.
_PEERS: Final = {"do_bench_s": ("`do_bench`", "cold_s"), "do_bench_cudagraph_s": ("`do_bench_cudagraph`", "hot_s")}


def timers(db: Path) -> str:
    """Set other ways of timing against ours."""
    path = db / "campaign" / "timers.parquet"
    title = "## Our timer against `do_bench`\n\n"
    if not path.exists():
        return title + "Not reached.\n\n"
    found = pq.read_table(path).to_pylist()
    said = [sentence for name in _PEERS if (sentence := _verdict(found, name))]
    if not said:
        said = ["No kernel was timed both ways."]
    text = (
        "`do_bench` times single launches after clearing the cache, so that the host's launch leaks into short\n"
        "kernels; `do_bench_cudagraph` replays calls on one buffer. The first is held against ours on cold operands,\n"
        "the second against ours on hot ones.\n\n"
    )
    lines = [
        [short(row["op"]), row["backend"] or "-", *(_us(row[name]) for name in ("cold_s", "do_bench_s")),
         _ratio(row, "do_bench_s"), *(_us(row[name]) for name in ("hot_s", "do_bench_cudagraph_s")),
         _ratio(row, "do_bench_cudagraph_s"), row["note"] or ""]
        for row in found
    ]  # fmt: skip
    head = ("op", "kernel", "#ours, cold, us", "#`do_bench`, us", "#over ours", "#ours, hot, us")
    head = (*head, "#`do_bench_cudagraph`, us", "#over ours", "note")
    return title + f"**{' '.join(said)}**\n\n" + text + table(head, lines)


def _verdict(found: list[dict[str, Any]], name: str) -> str:
    title, ours = _PEERS[name]
    ratios = [row[name] / row[ours] for row in found if row[name] and row[ours]]
    if not ratios:
        return ""
    return (
        f"{title} over ours in {len(ratios)} kernels: median {statistics.median(ratios):.3f}, "
        f"{min(ratios):.2f} to {max(ratios):.2f}."
    )


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.1f}"


def _ratio(row: dict[str, Any], name: str) -> str:
    ours = row[_PEERS[name][1]]
    return f"{row[name] / ours:.2f}" if row[name] and ours else "-"


def steps(db: Path) -> str:
    """Set whole steps against the sum of their kernels."""
    path = db / "campaign" / "steps.parquet"
    title = "## Whole steps against the sum of their kernels\n\n"
    if not path.exists():
        return title + "Not reached.\n\n"
    found = pq.read_table(path).to_pylist()
    errors = [row["summed_s"] / row["measured_s"] - 1 for row in found]
    if not errors:
        return title + "No step has all its parts.\n\n"
    lines = [
        [short(row["step"].removeprefix("step ")), f"{row['measured_s'] * 1e6:,.0f}", f"{row['summed_s'] * 1e6:,.0f}",
         f"{error:+.1%}"]
        for row, error in zip(found, errors, strict=True)
    ]  # fmt: skip
    text = (
        f"**{len(errors)} steps: median error of the sum {statistics.median(errors):+.1%}, "
        f"median of its size {statistics.median(map(abs, errors)):.1%}.**\n\n"
    )
    return title + text + table(("step", "#measured, us", "#sum of kernels, us", "#error of the sum"), lines)
