"""Results that contradict themselves: counts, totals and times that cannot all be of one run.

A file cut by hand, two runs merged into one, or a client that was stopped: whatever it is, no figure of it can be
held against a prediction.
"""

from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from profiles_db.recordings.run import RecordedRun
from profiles_db.recordings.summarised_run import SummarisedRun

# A client rounds nothing, but some count an answer's last part (usage, end of stream) in a latency and not in a gap.
_MOST_LATENCY_FRAC: Final = 0.1
_MOST_RATE_FRAC: Final = 0.02
_CLOCK_S: Final = 0.01
_HINT: Final = "take the file as the client wrote it"


def refuse_contradictions(run: RecordedRun) -> None:
    """Raise ``UserError`` where a run's own summary differs from its requests."""
    summary, served = run.summary, run.is_ok
    answered = int(served.sum())
    # An answer without a token counts as completed where the client saw no error; it is no request to replay.
    without_error = len(run) - sum(bool(error) for error in run.errors)
    if summary.completed is not None and not answered <= summary.completed <= without_error:
        raise UserError(
            f"{run.place}: completed is {summary.completed}, {answered} of its {len(run)} requests were answered",
            hint=_HINT,
        )
    if summary.failed is not None and summary.completed is not None and summary.completed + summary.failed != len(run):
        raise UserError(
            f"{run.place}: completed {summary.completed} and failed {summary.failed} are not its {len(run)} requests",
            hint=_HINT,
        )
    totals = {
        "input": (summary.prompt_tokens, int(run.prompt_tokens[served].sum())),
        "output": (summary.output_tokens, int(run.output_tokens[served].sum())),
    }
    for name, (stated, counted) in totals.items():
        if stated is not None and stated != counted and summary.completed in {None, answered}:
            raise UserError(
                f"{run.place}: total {name} tokens are {stated}, those of its requests {counted}", hint=_HINT
            )
    _refuse_short_duration(run)
    for name, values in (("ttft_s", run.ttft_s), ("e2e_s", run.e2e_s)):
        stated_s = summary.metrics.get(f"{name}.mean")
        known = values[served]
        if stated_s is None or not len(known) or not np.isfinite(known).all():
            continue
        mean_s = float(known.mean())
        if abs(mean_s - stated_s) > _MOST_LATENCY_FRAC * max(mean_s, stated_s):
            raise UserError(
                f"{run.place}: states a mean {name} of {stated_s:g} s, that of its requests is {mean_s:g} s", hint=_HINT
            )


def _refuse_short_duration(run: RecordedRun) -> None:
    """Refuse a duration in which the requests cannot have been served: they last longer, or wait for one another."""
    duration_s = run.summary.duration_s
    latencies = run.e2e_s[run.is_ok]
    if duration_s is None or not len(latencies) or not np.isfinite(latencies).all():
        return
    least_s = float(latencies.max())
    if run.max_concurrency is not None:
        least_s = max(least_s, float(latencies.sum()) / run.max_concurrency)
    if run.start_s is not None:
        starts_s = run.start_s[run.is_ok]
        least_s = max(least_s, float((starts_s + latencies).max() - starts_s.min()))
    if duration_s < least_s * (1 - 1e-3) - _CLOCK_S:
        raise UserError(
            f"{run.place}: states a duration of {duration_s:g} s, its requests take at least {least_s:g} s", hint=_HINT
        )


def refuse_contradicting_summary(run: SummarisedRun) -> None:
    """Raise ``UserError`` where the figures of a summary cannot all be of one run."""
    summary = run.summary
    duration_s, rates = summary.duration_s, summary.metrics
    if duration_s is not None and not duration_s > 0:
        raise UserError(f"{run.place}: states a duration of {duration_s:g} s, must be > 0", hint=_HINT)
    totals = {
        "throughput_requests_per_s": ("requests", run.requests),
        "throughput_tokens_per_s": ("output tokens", summary.output_tokens),
    }
    for path, (what, total) in totals.items():
        rate = rates.get(path)
        if rate is None or total is None or duration_s is None:
            continue
        if abs(rate * duration_s - total) > _MOST_RATE_FRAC * max(total, 1.0):
            raise UserError(
                f"{run.place}: states {rate:g} {what} per s over {duration_s:g} s, and {total} {what}", hint=_HINT
            )
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        p50, p99 = rates.get(f"{name}.p50"), rates.get(f"{name}.p99")
        if p50 is not None and p99 is not None and p50 > p99 * (1 + 1e-9):
            raise UserError(f"{run.place}: states a median {name} of {p50:g} s above its p99 of {p99:g} s", hint=_HINT)
    first, whole = rates.get("ttft_s.mean"), rates.get("e2e_s.mean")
    if first is not None and whole is not None and first > whole * (1 + 1e-6):
        raise UserError(
            f"{run.place}: states a mean ttft_s of {first:g} s above the mean e2e_s of {whole:g} s", hint=_HINT
        )
    if whole is not None and run.max_concurrency is not None and duration_s is not None:
        least_s = run.requests * whole / run.max_concurrency
        if duration_s < least_s * (1 - _MOST_RATE_FRAC) - _CLOCK_S:
            raise UserError(
                f"{run.place}: states a duration of {duration_s:g} s, its requests take at least {least_s:g} s "
                f"under a concurrency of {run.max_concurrency}",
                hint=_HINT,
            )
