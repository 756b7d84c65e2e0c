"""Results of benchmark clients as measured runs, whichever client wrote them."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from profiles_db.recordings.files import read_runs
from profiles_db.recordings.run import RecordedRun
from simulator.validation.asked import Asked, refuse_other_load
from simulator.validation.contradictions import refuse_contradictions
from simulator.validation.deployment import Deployment
from simulator.validation.measured_metrics import rates, request_metrics, span_s
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.workload.generators.arrivals import generate_arrivals
from simulator.workload.traces.read_trace import tool_of_file
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
    runs = read_runs(path, tool_of_file(path))
    stem = path.name.split(".")[0]
    names = [stem] if len(runs) == 1 else [f"{stem}#{number}" for number in range(1, len(runs) + 1)]
    return [_measured_run(run, name, asked) for run, name in zip(runs, names, strict=True)]


def _measured_run(run: RecordedRun, name: str, asked: Asked) -> MeasuredRun | UnusableRun:
    refuse_contradictions(run)
    failed = int((~run.is_ok).sum())
    if failed > MOST_FAILED_FRAC * len(run):
        reason = f"{failed} of {len(run)} requests failed (at most {MOST_FAILED_FRAC:.0%} may)"
        return UnusableRun(name=name, place=run.place, reason=reason)
    deployment = asked.completed(run.stated, run.server, run.place)
    run = _under_load(run, asked)
    try:
        found = recorded(run, name=name)
    except UserError as error:
        return UnusableRun(name=name, place=run.place, reason=str(error))
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
        server=run.server,
        notes=workload.notes,
    )


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
