"""A run that a benchmark client recorded, as requests to replay and the times that were measured for them."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.recordings.files import read_runs
from profiles_db.recordings.run import RecordedRun, choose
from profiles_db.recordings.vllm_bench import DETAIL_HINT
from simulator.workload.columns import MOST_REQUESTS
from simulator.workload.span import HINT, LONGEST_SPAN_S, shown_span
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRequests:
    """What the client measured of each of the ``n`` requests of a workload, in its order; NaN where it did not.

    ``gap_s`` [sum of the requests' gaps] holds the times between the chunks of an answer, request after request, of
    which request i owns ``gap_s[gap_offsets[i]:gap_offsets[i + 1]]``; None where the client kept none.
    """

    sent_s: NDArray[np.float64]  # [n] from the first request
    ttft_s: NDArray[np.float64]  # [n]
    e2e_s: NDArray[np.float64]  # [n]
    output_tokens: NDArray[np.int64]  # [n]
    gap_s: NDArray[np.float64] | None = None
    gap_offsets: NDArray[np.int64] | None = None  # [n + 1]

    def __len__(self) -> int:
        return len(self.e2e_s)

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """Mean time per output token after the first [n]; NaN for answers of one token."""
        gaps = self.output_tokens - 1
        return np.where(gaps > 0, (self.e2e_s - self.ttft_s) / np.maximum(gaps, 1), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A recorded run: the workload that replays it, what the real server took, and how many requests failed."""

    workload: Workload
    measured: MeasuredRequests
    failed: int


def read_recorded(path: Path, tool: str, *, result: int | None = None, limit: int | None = None) -> Recorded:
    """Read one run of a client's file, the ``result``-th of several, as `recorded` does."""
    return recorded(choose(read_runs(path, tool), result, path), name=path.name.split(".")[0], limit=limit)


def recorded(run: RecordedRun, *, name: str, limit: int | None = None) -> Recorded:
    """Return the requests of a run to replay, and the times measured for them; UserError names what cannot be used.

    The requests that failed are left out and counted. A run under a concurrency alone stays a closed loop: its start
    times are what the server made of it.
    """
    if not run.is_ok.any():
        raise UserError(f"{run.place}: all {len(run)} requests failed")
    served = np.flatnonzero(run.is_ok)
    arrival_s = _arrivals(run)
    order = served[np.argsort(arrival_s[served], kind="stable")]
    if run.is_closed_loop and run.start_s is not None:
        order = served[np.argsort(run.start_s[served], kind="stable")]
    order = order[: MOST_REQUESTS if limit is None else limit]
    arrivals = arrival_s[order] - arrival_s[order[0]]
    if arrivals[-1] > LONGEST_SPAN_S:
        raise UserError(
            f"{run.place}: the run is {shown_span(float(arrivals[-1]))} long, the engine's clock holds "
            f"{shown_span(LONGEST_SPAN_S)}",
            hint=HINT,
        )
    sent_s = np.full(len(run), np.nan) if run.start_s is None else run.start_s
    gaps = None if run.gaps_s is None else [run.gaps_s[index] for index in order.tolist()]
    return Recorded(
        workload=Workload(
            name=name,
            arrival_s=arrivals,
            prompt_tokens=run.prompt_tokens[order],
            output_tokens=run.output_tokens[order],
            client=_client(run),
            notes=tuple(_notes(run, failed=len(run) - len(served))),
        ),
        measured=MeasuredRequests(
            sent_s=sent_s[order] - np.nanmin(sent_s[order]) if run.start_s is not None else sent_s[order],
            ttft_s=run.ttft_s[order],
            e2e_s=run.e2e_s[order],
            output_tokens=run.output_tokens[order],
            gap_s=None if gaps is None else np.concatenate(gaps),
            gap_offsets=None if gaps is None else np.cumsum([0, *map(len, gaps)]),
        ),
        failed=len(run) - len(served),
    )


def _client(run: RecordedRun) -> OpenLoop | ClosedLoop | CappedLoop:
    if run.max_concurrency is None:
        return OpenLoop()
    return (ClosedLoop if run.is_closed_loop else CappedLoop)(concurrency=run.max_concurrency)


def _arrivals(run: RecordedRun) -> NDArray[np.float64]:
    """When requests came: as the load asked for where the file says it, else as they were sent."""
    if run.is_closed_loop or run.rate_per_s == math.inf:
        return np.zeros(len(run))
    if run.due_s is not None:
        return run.due_s
    if run.start_s is not None:
        return run.start_s
    rate = "is not stated" if run.rate_per_s is None else f"is {run.rate_per_s:g}"
    raise UserError(
        f"{run.place}: has no start_times, and request_rate {rate}",
        hint=f"{DETAIL_HINT}; SGLang writes no start times: draw arrivals over the lengths: "
        "synthetic:like=FILE,rate=2,n=500",
    )


def _notes(run: RecordedRun, *, failed: int) -> list[str]:
    notes = [f"{run.place}: {note}" for note in run.notes]
    if failed:
        notes.append(f"{run.place}: dropped {failed} failed requests, kept {len(run) - failed}")
    if not run.states_load:
        notes.append(
            f"{run.place}: requests are sent when {run.tool} sent them; if a concurrency held them back, give it: "
            "closed:trace=FILE,concurrency=N"
        )
    if run.max_concurrency is not None and not run.is_closed_loop:
        notes.append(
            f"{run.place}: requests are due "
            + ("when the load asked for them" if run.due_s is not None else "when they were sent")
            + f", and no more than the client's concurrency of {run.max_concurrency} are unanswered"
        )
    return notes
