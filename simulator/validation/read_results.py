"""Results of benchmark clients as measured runs, whichever client wrote them."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import read_json
from cluster_specs.files.shown import listed
from profiles_db.recordings import inferencex
from profiles_db.recordings.files import client_of
from profiles_db.recordings.files import read_results as recordings
from profiles_db.recordings.run import RecordedRun
from profiles_db.recordings.summarised_run import SummarisedRun
from simulator.validation.asked import Asked, refuse_other_load
from simulator.validation.contradictions import refuse_contradicting_summary, refuse_contradictions
from simulator.validation.deployment import Deployment
from simulator.validation.drawn_requests import drawn_workload
from simulator.validation.measured_metrics import rates, request_metrics, span_s
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.workload.generators.arrivals import generate_arrivals
from simulator.workload.traces.containers import open_container
from simulator.workload.traces.recorded import recorded
from simulator.workload.workload import OpenLoop

# More failures than this, and the load that the others felt is not the one that was asked for.
MOST_FAILED_FRAC: Final = 0.05


def read_results(paths: Iterable[Path], asked: Asked | Deployment) -> list[MeasuredRun | UnusableRun]:
    """Read every run of ``paths``, each with the deployment that was asked for or that it states itself.

    Raises ``UserError`` for a file that is no client's, that contradicts itself, or what was asked for. A run that
    cannot be replayed is unusable for the reason it holds.
    """
    wanted = asked if isinstance(asked, Asked) else Asked.of(asked)
    return [run for path in paths for run in _read_file(path, wanted)]


def _read_file(path: Path, asked: Asked) -> list[MeasuredRun | UnusableRun]:
    runs = recordings(path, _client_of_file(path))
    stem = path.name.split(".")[0]
    names = [stem] if len(runs) == 1 else [f"{stem}#{number}" for number in range(1, len(runs) + 1)]
    return [
        _summarised_run(run, name, asked) if isinstance(run, SummarisedRun) else _measured_run(run, name, asked)
        for run, name in zip(runs, names, strict=True)
    ]


def _client_of_file(path: Path) -> str:
    """Name the client that wrote a file; raises ``UserError`` for any other file."""
    container = open_container(path, is_told=True)
    first: object = container.first
    if container.kind == "document":
        first = read_json(path)[0][1]
    client = client_of(first) if isinstance(first, dict) else None
    if client is None:
        keys = f", with the keys {listed(first)}" if isinstance(first, dict) and first else ""
        raise UserError(
            f"{path}: is no result of a benchmark client that is known here{keys}",
            hint="docs/reference/traces.md lists the files of each client",
        )
    return client


def _measured_run(run: RecordedRun, name: str, asked: Asked) -> MeasuredRun | UnusableRun:
    refuse_contradictions(run)
    failed = int((~run.is_ok).sum())
    if failed > MOST_FAILED_FRAC * len(run):
        return UnusableRun(name=name, place=run.place, reason=_failures(failed, len(run)))
    deployment = asked.completed(run.stated, run.server, run.place)
    run = _under_load(run, asked)
    try:
        found = recorded(run, name=name)
    except UserError as error:
        return UnusableRun(name=name, place=run.place, reason=_reason(error, run.place))
    requests, workload = found.measured, found.workload
    span = span_s(requests)
    duration_s = run.summary.duration_s or span
    lead_s = 0.0
    if isinstance(workload.client, OpenLoop) and not failed and span is not None and duration_s is not None:
        lead_s = max(0.0, duration_s - span)
    return MeasuredRun(
        name=name,
        place=run.place,
        tool=run.tool,
        deployment=deployment,
        workload=workload,
        measured=request_metrics(requests) | ({} if duration_s is None else rates(workload, duration_s)),
        requests=requests,
        failed=failed,
        client_lead_s=lead_s,
        day=run.summary.day,
        server=run.server,
        notes=workload.notes,
    )


def _summarised_run(run: SummarisedRun, name: str, asked: Asked) -> MeasuredRun | UnusableRun:
    """Return a run of which the client kept no requests, by requests drawn in their place."""
    refuse_contradicting_summary(run)
    reason = run.refusal
    if run.requests == 0:
        reason = "all requests failed" if run.failed else "no request was answered"
    elif run.failed > MOST_FAILED_FRAC * (run.requests + run.failed):
        reason = _failures(run.failed, run.requests + run.failed)
    if reason is not None:
        return UnusableRun(name=name, place=run.place, reason=reason)
    if run.states_load:
        rate_per_s = None if run.rate_per_s is None or math.isinf(run.rate_per_s) else run.rate_per_s
        refuse_other_load(asked, concurrency=run.max_concurrency, rate_per_s=rate_per_s, place=run.place)
    else:
        rate = math.inf if asked.concurrency is not None and asked.request_rate_per_s is None else None
        run = replace(run, max_concurrency=asked.concurrency, rate_per_s=asked.request_rate_per_s or rate)
    try:  # a list of rows holds servers that nobody chose; every other file is of the one that was asked for
        workload = drawn_workload(run, name)
        deployment = asked.completed(run.stated, run.server, run.place)
    except UserError as error:
        if run.tool != inferencex.NAME:
            raise
        return UnusableRun(name=name, place=run.place, reason=_reason(error, run.place))
    duration_s = run.summary.duration_s
    return MeasuredRun(
        name=name,
        place=run.place,
        tool=run.tool,
        deployment=deployment,
        workload=workload,
        measured=run.summary.metrics if duration_s is None else {**run.summary.metrics, "duration_s": duration_s},
        failed=run.failed,
        client_lead_s=_lead_s(run),
        day=run.summary.day,
        server=run.server,
        notes=workload.notes,
    )


def _lead_s(run: SummarisedRun) -> float:
    """Return by how much the client's clock is ahead of its first request: vLLM's starts a gap before that is due."""
    is_timed = run.rate_per_s is not None and math.isfinite(run.rate_per_s)
    return 1 / run.rate_per_s if run.spans_rate and is_timed and run.rate_per_s is not None else 0.0


def _failures(failed: int, total: int) -> str:
    return f"{failed} of {total} requests failed (at most {MOST_FAILED_FRAC:.0%} may)"


def _reason(error: UserError, place: str) -> str:
    """Return what an error says, without the place that the run has anyway, so that like reasons are counted."""
    return str(error).removeprefix(f"{place}: ")


def _under_load(run: RecordedRun, asked: Asked) -> RecordedRun:
    """Return the run under the load its file states, or, where it states none, under the one asked for.

    Arrivals of a stated rate whose times were not kept are drawn.
    """
    if run.states_load:
        rate_per_s = None if run.rate_per_s is None or math.isinf(run.rate_per_s) else run.rate_per_s
        refuse_other_load(asked, concurrency=run.max_concurrency, rate_per_s=rate_per_s, place=run.place)
    elif asked.concurrency is not None or asked.request_rate_per_s is not None:
        run = replace(
            run, states_load=True, max_concurrency=asked.concurrency, rate_per_s=asked.request_rate_per_s or math.inf
        )
    is_timed = run.start_s is not None or run.due_s is not None
    if is_timed or run.rate_per_s is None or math.isinf(run.rate_per_s):
        return run
    note = f"the times of sending were not kept: arrivals are drawn from a Poisson process of {run.rate_per_s:g}/s"
    due_s = generate_arrivals(len(run), rate_per_s=run.rate_per_s)
    return replace(run, due_s=due_s - due_s[0], notes=(*run.notes, note))
