"""A run replayed, with the latencies of its requests one by one: for what clients averaged in ways of their own."""

from simulator.results.metrics import F64, request_latencies_s
from simulator.simulate import SimulatedPlan
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun


def replayed_by_request(run: MeasuredRun, predictor: Predictor) -> tuple[ValidatedRun, dict[str, F64]]:
    """Return a run of one pool beside its prediction, and latencies [n] in s (`request_latencies_s`).

    Ends the benchmark where the run cannot be predicted: all of these can.
    """
    found = predictor.predict(run, with_interval=False)
    if isinstance(found, UnusableRun):
        raise SystemExit(f"{run.name}: {found.reason}")
    assert isinstance(found.outcome, SimulatedPlan)
    assert found.outcome.run is not None
    return found, request_latencies_s(found.outcome.run)
