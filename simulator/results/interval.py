"""From the cost model's intervals to the metrics': the workload replayed with every step at either end of its own.

The step tables at the two ends assume that errors of one op are the same in all layers and steps, and that errors of
different ops are independent (``simulator.steps.op_curves.StepSum``). A metric's 90 % interval spans its values in the
three runs: slower steps can serve a request sooner (another batch forms), so the ends may change places and the best
estimate may lie outside them.
"""

from collections.abc import Sequence

from simulator.results.objective import Metrics, metric_paths, read_metric

Interval = tuple[float, float]


def metric_intervals(runs: Sequence[Metrics]) -> dict[str, Interval]:
    """Return [low, high] of every metric an objective may name, by its path; a metric unknown in any run is left out.

    ``runs`` are the metrics of one plan and workload at the best estimate and at both ends.
    """
    intervals = {}
    for path in metric_paths():
        values = [value for run in runs if (value := read_metric(run, path)) is not None]
        if len(values) == len(runs):
            intervals[path] = (min(values), max(values))
    return intervals
