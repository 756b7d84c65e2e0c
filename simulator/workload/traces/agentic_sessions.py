"""LLMServingSim's agentic lines, a session of chained calls each, as one record per call.

A call is sent ``tool_duration_ns`` of the call before after that one has finished. Source: casys-kaist/LLMServingSim
docs/docs/workloads/jsonl-format.md.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from simulator.workload.traces.record_chunks import Numbered, record_of

CALLS: Final = "sub_requests"
AFTER: Final = "after"
THINK_S: Final = "think_s"
_PAUSE: Final = "tool_duration_ns"
_LONGEST_PAUSE_NS: Final = 10**18


def is_session(record: Mapping[str, Any]) -> bool:
    """Tell a session by its list of calls."""
    return CALLS in record


def call_keys(first: Mapping[str, Any]) -> list[str]:
    """Return the keys of the records that a file of sessions gives."""
    calls = first.get(CALLS)
    own = list(calls[0]) if isinstance(calls, list) and calls and isinstance(calls[0], dict) else []
    return [*own, "input_toks", "output_toks", "arrival_time_ns", AFTER, THINK_S]


def call_records(path: str, blocks: Iterable[Sequence[Numbered]]) -> Iterator[list[Numbered]]:
    """Yield the calls of blocks of sessions in order, each with the line of its session; a flat line is one call."""
    count = 0
    for block in blocks:
        calls: list[Numbered] = []
        for line, session in block:
            own = _calls(f"{path}:{line}", session)
            for position, call in enumerate(own):
                pause_ns = 0 if position == 0 else _pause_ns(f"{path}:{line}", own[position - 1])
                record = {
                    **call,
                    "arrival_time_ns": session.get("arrival_time_ns"),
                    AFTER: count - 1 if position else -1,
                    THINK_S: pause_ns / 1e9,
                }
                calls.append((line, record))
                count += 1
        if calls:
            yield calls


def _calls(place: str, session: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if CALLS not in session:
        return [session]
    calls = session[CALLS]
    if not isinstance(calls, list) or not calls:
        raise UserError(f"{place}: {CALLS} is {shown(calls)}, must be a list of one call or more")
    return [record_of(call, f"{place}: call {number}") for number, call in enumerate(calls, start=1)]


def _pause_ns(place: str, call: Mapping[str, Any]) -> int:
    pause = call.get(_PAUSE, 0)
    if type(pause) is not int or not 0 <= pause <= _LONGEST_PAUSE_NS:
        raise UserError(f"{place}: {_PAUSE} is {shown(pause)}, must be a whole number >= 0")
    return pause
