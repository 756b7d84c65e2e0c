"""An observation as a person reads it: one line per load, what was said against each, how it ended."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from profiler.observe.result_file import KEY

_LATENCIES: Final = ("TTFT ms", "p99", "TPOT ms", "E2E ms")
_HEAD: Final = ("load", "requests", "failed", "req/s", "tok/s", *_LATENCIES, "running", "waiting", "lag ms")


def lines_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table and its remarks; times are means but for the p99 of TTFT, waiting is the most that was seen."""
    rows = [_HEAD, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    said: set[str] = set()
    for result, row in zip(results, rows[1:], strict=True):
        for remark in result[KEY]["remarks"]:
            if remark not in said:  # what holds for the server holds for each of its loads
                lines.append(f"note: {row[0]}: {remark}")
                said.add(remark)
    return lines


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    observed = result[KEY]
    rate = result["request_rate"]
    load = f"{rate:g} req/s" if rate != "inf" else f"concurrency {result['max_concurrency']}"
    return (
        load,
        str(result["completed"]),
        str(result["failed"]),
        f"{result['request_throughput']:.2f}",
        f"{result['output_throughput']:.0f}",
        f"{result['mean_ttft_ms']:.1f}",
        f"{result['p99_ttft_ms']:.1f}",
        f"{result['mean_tpot_ms']:.2f}",
        f"{result['mean_e2el_ms']:.0f}",
        _or_dash(observed["running_mean"], ".1f"),
        _or_dash(observed["waiting_max"], ".0f"),
        f"{observed['client']['p99_lag_ms']:.2f}",
    )


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
