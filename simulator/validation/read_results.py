"""Results of benchmark clients as measured runs, whichever client wrote them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from profiles_db.recordings.files import read_runs
from profiles_db.recordings.run import RecordedRun
from simulator.validation.deployment import Deployment
from simulator.validation.measured_metrics import rates, request_metrics, span_s
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.workload.traces.read_trace import tool_of_file
from simulator.workload.traces.recorded import recorded
from simulator.workload.workload import OpenLoop

# More failures than this, and the load that the others felt is not the one that was asked for.
MOST_FAILED_FRAC: Final = 0.05


def read_results(paths: Iterable[Path], deployment: Deployment) -> list[MeasuredRun | UnusableRun]:
    """Read every run of ``paths``, all of one server; raises ``UserError`` for a file that is no client's."""
    return [run for path in paths for run in _read_file(path, deployment)]


def _read_file(path: Path, deployment: Deployment) -> list[MeasuredRun | UnusableRun]:
    runs = read_runs(path, tool_of_file(path))
    stem = path.name.split(".")[0]
    names = [stem] if len(runs) == 1 else [f"{stem}#{number}" for number in range(1, len(runs) + 1)]
    return [_measured_run(run, name, deployment) for run, name in zip(runs, names, strict=True)]


def _measured_run(run: RecordedRun, name: str, deployment: Deployment) -> MeasuredRun | UnusableRun:
    failed = int((~run.is_ok).sum())
    if failed > MOST_FAILED_FRAC * len(run):
        reason = f"{failed} of {len(run)} requests failed (at most {MOST_FAILED_FRAC:.0%} may)"
        return UnusableRun(name=name, place=run.place, reason=reason)
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
