"""The timeline of a run in the Chrome trace-event format, for Perfetto (ui.perfetto.dev) and chrome://tracing.

One process per replica: a track of iterations, counters of sequences and of free KV blocks, and one track per request
with its phases queue, prefill and decode. Times are microseconds, as the format wants them. Events have phase X
(complete), C (counter), b and e (nestable async), i (instant) or M (names).
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from cluster_specs.files.whole import write_whole
from cluster_specs.lazy_dataclass import dataclass
from simulator.engine.records import Rows
from simulator.engine.request import FINISHED
from simulator.engine.result import STATUS_NAMES, EngineResult

I64 = NDArray[np.int64]
Event = dict[str, Any]

# Perfetto opens a million events; beyond some hundred thousand nobody reads on.
MAX_EVENTS: Final = 300_000
_PER_ITERATION: Final = 3
_PER_REQUEST: Final = 6
_US_PER_PS: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a trace file holds of a run: its first iterations and requests, up to ``until_s``."""

    iterations: int
    all_iterations: int
    requests: int
    all_requests: int
    until_s: float

    @property
    def is_whole(self) -> bool:
        """Whether nothing was cut off."""
        return self.iterations == self.all_iterations and self.requests == self.all_requests


def write_chrome_trace(run: EngineResult, path: Path, *, max_events: int = MAX_EVENTS) -> Kept:
    """Write the first ``max_events`` events of a run with ``log``; return what was kept. Raises ``OutputError``."""
    if run.log is None:
        raise ValueError("the run kept no iteration log: replay it with log=True")
    starts = run.log["start_ps"]
    until = _cut(starts, run.arrival_ps, max_events)
    log = run.log[starts <= until]
    requests = np.flatnonzero((run.arrival_ps >= 0) & (run.arrival_ps <= until))

    def write(stream: BinaryIO) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8")
        _write_events(text, run, log, requests)
        text.detach()  # flushes, and leaves the stream to its owner

    write_whole(path, write)
    return Kept(
        iterations=len(log),
        all_iterations=len(run.log),
        requests=len(requests),
        all_requests=len(run),
        until_s=float(until) * 1e-12,
    )


def _cut(starts: I64, arrivals: I64, max_events: int) -> int:
    """Last time up to which what starts fits into ``max_events`` events."""
    sent = arrivals[arrivals >= 0]
    times = np.concatenate([starts, sent])
    events = np.repeat([_PER_ITERATION, _PER_REQUEST], [len(starts), len(sent)])
    order = np.argsort(times, kind="stable")
    over = np.flatnonzero(np.cumsum(events[order]) > max_events)
    if not len(over):
        return int(times.max(initial=0))
    # Strictly before the first that does not fit, so that what starts together stays together.
    return int(times[order][over[0]]) - 1


def _write_events(stream: TextIO, run: EngineResult, log: Rows, requests: I64) -> None:
    """Write the JSON event by event: a dictionary of all of them would need ten times the file's size."""
    stream.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
    separator = ""
    for events in (_names(run.replicas.dp), _iterations(log), _requests(run, requests)):
        for event in events:
            stream.write(separator + json.dumps(event, separators=(",", ":")))
            separator = ",\n"
    stream.write("\n]}\n")


def _names(dp: int) -> Iterator[Event]:
    for replica in range(dp):
        yield {"ph": "M", **_place(replica), "name": "process_name", "args": {"name": f"replica {replica}"}}
        yield {"ph": "M", **_place(replica), "name": "thread_name", "args": {"name": "iterations"}}


def _place(replica: int, lane: int = 0) -> Event:
    """Process and thread; viewers give the numbers 0 a meaning of their own."""
    return {"pid": replica + 1, "tid": lane + 1}


def _iterations(log: Rows) -> Iterator[Event]:
    """Put each step on the first free track: steps of a pipeline overlap, and viewers nest what overlaps."""
    lanes: dict[int, list[int]] = {}
    for values in log.tolist():
        row = dict(zip(log.dtype.names or (), values, strict=True))
        replica, start, end = row["replica"], row["start_ps"], row["end_ps"]
        ends = lanes.setdefault(replica, [])
        lane = next((index for index, busy_until in enumerate(ends) if busy_until <= start), len(ends))
        ends[lane : lane + 1] = [end]
        decodes, prefill_tokens = row["decodes"], row["prefill_tokens"]
        parts = [name for name, count in (("prefill", prefill_tokens), ("decode", decodes)) if count]
        here = {**_place(replica, lane), "ts": _us(start)}
        facts = {
            "prefill_tokens": prefill_tokens,
            "prefill_seqs": row["prefills"],
            "decode_seqs": decodes,
            "decode_kv_tokens": row["decode_kv"],
            "decision_us": _us(row["decision_ps"]),
        }
        yield {"ph": "X", **here, "dur": _us(end - start), "name": " + ".join(parts), "args": facts}
        counts = {"running": row["running"], "waiting": row["waiting"]}
        yield {"ph": "C", **here, "name": "sequences", "args": counts}
        yield {"ph": "C", **here, "name": "free KV blocks", "args": {"blocks": row["free"]}}


def _requests(run: EngineResult, requests: I64) -> Iterator[Event]:
    for index in requests.tolist():
        place = _place(max(0, int(run.replica[index])))
        status = int(run.status[index])
        begin = int(run.arrival_ps[index])
        if status != FINISHED:
            name = f"request {index} {STATUS_NAMES.get(status, 'unfinished')}"
            yield {"ph": "i", "s": "p", **place, "ts": _us(begin), "name": name}
            continue
        bounds = (run.scheduled_ps, run.first_token_ps, run.finish_ps)
        for name, column in zip(("queue", "prefill", "decode"), bounds, strict=True):
            end = int(column[index])
            event = {"cat": "request", "id": index, **place, "name": name}
            yield {"ph": "b", "ts": _us(begin), **event, "args": _sizes(run, index)}
            yield {"ph": "e", "ts": _us(end), **event}
            begin = end


def _sizes(run: EngineResult, index: int) -> dict[str, int]:
    return {
        "prompt_tokens": int(run.prompt_tokens[index]),
        "output_tokens": int(run.output_tokens[index]),
        "prefix_hit_tokens": int(run.hit_tokens[index]),
        "preemptions": int(run.preemptions[index]),
    }


def _us(ps: int) -> float:
    return round(ps * _US_PER_PS, 6)
