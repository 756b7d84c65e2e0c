"""Runs beside predictions that are stated, for tests of what is said of many."""

from collections.abc import Mapping

import numpy as np

from simulator.results.interval import Interval
from simulator.validation.deployment import Deployment
from simulator.validation.measured_run import MeasuredRun
from simulator.validation.predict import ValidatedRun
from simulator.workload.workload import Workload


def validated_run(
    values: Mapping[str, tuple[float, float | None]],
    interval: Mapping[str, Interval] | None = None,
    *,
    server: str = "one",
) -> ValidatedRun:
    """Return a run of one request; ``values`` are measured and predicted by path, None what is not predicted."""
    one = np.ones(1, dtype=np.int64)
    run = MeasuredRun(
        name="run",
        place="run",
        tool="stated",
        deployment=Deployment(model="tiny-llama", cluster="h100-sxm-1", plan="tp1"),
        workload=Workload(name="one", arrival_s=np.zeros(1), prompt_tokens=one, output_tokens=one),
        measured={path: measured for path, (measured, _) in values.items()},
        group=server,
    )
    predicted = {path: value for path, (_, value) in values.items() if value is not None}
    return ValidatedRun(run=run, predicted=predicted, interval=interval or {}, outcome=None)
