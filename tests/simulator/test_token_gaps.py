"""Gaps between tokens out of the iteration log: every gap of every answer once."""

import numpy as np
import pytest

from simulator.results.token_gaps import gap_distribution
from simulator.simulate import replay
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of


@pytest.mark.parametrize(
    ("plan", "engine", "traffic"),
    [
        ("tp1", "vllm-0.33", "synthetic:isl=100-2000,osl=2-60,rate=20,n=80,seed=1"),
        ("dp2", "vllm-0.33", "closed:isl=1500,osl=40,concurrency=8,ratio=0.3"),
        ("tp1", "sglang-0.5", "synthetic:isl=100-2000,osl=2-60,rate=20,n=80,seed=1"),
    ],
)
def test_gaps_add_up_to_the_time_from_first_to_last_token(plan: str, engine: str, traffic: str) -> None:
    """Mean times count is the sum of all requests' decode times, whichever replica, policy and client."""
    workload, serving = parse_workload(traffic), serving_of(engine=engine, stream_interval=1)
    result = replay(serving, start_of(serving, plan, workload), workload, log=True)
    run = result.run
    assert run is not None
    found = gap_distribution(run)
    assert found is not None
    decode_s = ((run.finish_ps - run.first_token_ps) * 1e-12)[run.measured].sum()
    count = (run.output_tokens - 1)[run.measured].sum()
    assert found.mean * count == pytest.approx(decode_s)
    assert found.mean == pytest.approx(result.metrics["itl_s"]["mean"])
    assert found.p50 <= found.p90 <= found.p99
    assert found.p99 > result.metrics["itl_s"]["p99"], "a prefill between two tokens makes single gaps long"


def test_a_lone_request_has_one_gap_per_step() -> None:
    """Without company every gap is a decode step; its quantiles are those of the steps in the log."""
    workload, serving = parse_workload("synthetic:isl=500,osl=30,rate=1,n=1"), serving_of()
    run = replay(serving, start_of(serving, "tp1", workload), workload, log=True).run
    assert run is not None
    assert run.log is not None
    found = gap_distribution(run)
    assert found is not None
    steps_s = np.diff(np.sort(run.log["end_ps"])) * 1e-12
    assert len(steps_s) == 29
    assert found.mean == pytest.approx(steps_s.mean())
    assert found.p99 == pytest.approx(steps_s.max())


def test_where_the_log_does_not_tell_nothing_is_said() -> None:
    """Without a log, with tokens sent together, or with micro-batches that take turns."""
    workload = parse_workload("synthetic:isl=500,osl=30,rate=9,n=20,seed=1")
    for serving, plan, log in (
        (serving_of(), "tp1", False),
        (serving_of(engine="vllm-0.18", stream_interval=4), "tp1", True),
        (serving_of(), "pp2", True),
    ):
        run = replay(serving, start_of(serving, plan, workload), workload, log=log).run
        assert run is not None
        assert gap_distribution(run) is None
