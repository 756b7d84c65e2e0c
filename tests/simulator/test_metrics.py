"""Metrics are what their definitions say, in one piece and in parts."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine.stream import run_stream
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.results.log_histogram import LogHistogram
from simulator.results.metrics import Distribution, RequestSlo, request_latencies_s, summarise, summarise_stream
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=16,
    max_num_batched_tokens=512,
    max_model_len=1024,
    block_size=16,
    num_gpu_blocks=500,
    async_scheduling=False,
)
TABLES = linear_tables(max_num_seqs=16, max_num_batched_tokens=512, step_ps=10**10, token_ps=10**7, decode_kv_ps=10**5)


def run(n: int = 400) -> tuple[Workload, EngineResult]:
    """Serve a small open loop."""
    rng = np.random.default_rng(1)
    workload = Workload(
        name="small",
        arrival_s=np.cumsum(rng.exponential(0.05, n)),
        prompt_tokens=rng.integers(1, 200, n),
        output_tokens=rng.integers(1, 60, n),
    )
    return workload, run_replicas(TABLES, LIMITS, workload)


def test_latencies_follow_their_definitions() -> None:
    """TTFT, E2E and queue are differences of times; TPOT spreads what is left over the other tokens."""
    _, result = run()
    latency = request_latencies_s(result)
    i = int(np.flatnonzero(result.output_tokens > 1)[0])
    ttft = (result.first_token_ps[i] - result.arrival_ps[i]) / 1e12
    e2e = (result.finish_ps[i] - result.arrival_ps[i]) / 1e12
    assert latency["ttft_s"][i] == pytest.approx(ttft)
    assert latency["e2e_s"][i] == pytest.approx(e2e)
    assert latency["tpot_s"][i] == pytest.approx((e2e - ttft) / (result.output_tokens[i] - 1))


def test_rates_count_tokens_and_requests_over_the_span() -> None:
    """Throughput times duration gives the tokens and requests back."""
    workload, result = run()
    metrics = summarise(result)
    assert metrics.throughput_tokens_per_s * metrics.duration_s == pytest.approx(workload.output_tokens.sum())
    assert metrics.throughput_requests_per_s * metrics.duration_s == pytest.approx(len(workload))
    both = workload.output_tokens.sum() + workload.prompt_tokens.sum()
    assert metrics.throughput_total_tokens_per_s * metrics.duration_s == pytest.approx(both)


def test_mean_itl_weights_requests_by_their_gaps() -> None:
    """The mean gap over all tokens is the sum of decode times over the number of gaps."""
    _, result = run()
    gaps = result.output_tokens - 1
    decode_s = (result.finish_ps - result.first_token_ps).sum() / 1e12
    assert summarise(result).itl_s.mean == pytest.approx(decode_s / gaps.sum())


def test_goodput_counts_requests_that_meet_every_limit() -> None:
    """Each limit alone and both together; an impossible one leaves nothing."""
    _, result = run()
    latency = request_latencies_s(result)
    limit = float(np.median(latency["ttft_s"]))
    metrics = summarise(result, RequestSlo(ttft_s=limit))
    assert metrics.slo_attainment_frac == pytest.approx((latency["ttft_s"] <= limit).mean())
    both = summarise(result, RequestSlo(ttft_s=limit, e2e_s=0.3))
    assert both.slo_attainment_frac == ((latency["ttft_s"] <= limit) & (latency["e2e_s"] <= 0.3)).mean()
    assert summarise(result, RequestSlo(tpot_s=1e-6, e2e_s=1e-6)).goodput_requests_per_s == 0.0


def test_the_breakdown_adds_up_to_one() -> None:
    """Token, attention, sample, host, bubble and idle time fill the span of a replica."""
    _, result = run()
    parts = summarise(result).breakdown
    total = parts.token_frac + parts.attention_frac + parts.sample_frac + parts.host_frac + parts.bubble_frac
    assert total + parts.idle_frac == pytest.approx(1.0, abs=1e-6)


def test_json_has_plain_values_and_no_nan() -> None:
    """Undefined numbers are null, and the file is valid JSON."""
    workload, _ = run(3)
    result = run_replicas(TABLES, LIMITS, replace(workload, output_tokens=np.zeros(3, dtype=np.int64)))
    text = json.dumps(summarise(result).to_json(), allow_nan=False)
    assert json.loads(text)["tpot_s"]["p99"] is None


@given(
    st.lists(st.floats(min_value=0, allow_infinity=False, width=64), min_size=1, max_size=300).filter(
        lambda values: sum(values) < 1e300
    )
)
def test_quantiles_are_numpys_to_the_bit(values: list[float]) -> None:
    """However many values there are, and however many are equal, each quantile is that of ``numpy.quantile``."""
    found = Distribution.of(np.array(values))
    assert [found.p50, found.p90, found.p95, found.p99] == np.quantile(values, (0.5, 0.9, 0.95, 0.99)).tolist()


def test_a_stream_gives_the_metrics_of_the_whole() -> None:
    """Sums agree exactly, quantiles within the sketch's 0.1 % and one rank."""
    workload, result = run(2000)
    halves = [
        replace(
            workload,
            arrival_s=workload.arrival_s[part],
            prompt_tokens=workload.prompt_tokens[part],
            output_tokens=workload.output_tokens[part],
        )
        for part in (slice(0, 900), slice(900, None))
    ]
    whole = summarise(result, RequestSlo(ttft_s=0.05))
    streamed = summarise_stream(run_stream(TABLES, LIMITS, halves), RequestSlo(ttft_s=0.05))
    assert streamed.finished == whole.finished
    assert streamed.goodput_requests_per_s == pytest.approx(whole.goodput_requests_per_s)
    assert streamed.ttft_s.mean == pytest.approx(whole.ttft_s.mean)
    assert streamed.ttft_s.p99 == pytest.approx(whole.ttft_s.p99, rel=0.02)
    assert streamed.e2e_s.p50 == pytest.approx(whole.e2e_s.p50, rel=0.01)


def test_the_sketch_keeps_its_promise() -> None:
    """Quantiles of values over nine decades are within 0.1 % of the exact nearest rank; the mean is exact."""
    values = 10.0 ** np.random.default_rng(5).uniform(-6, 3, 50_000)
    sketch = LogHistogram()
    sketch.add(values[:20_000])
    sketch.add(values[20_000:])
    assert sketch.mean == pytest.approx(values.mean())
    for share in (0.01, 0.5, 0.9, 0.99):
        exact = float(np.quantile(values, share, method="inverted_cdf"))
        assert sketch.quantile(share) == pytest.approx(exact, rel=1.01e-3)


def test_weights_stand_for_repeated_values() -> None:
    """Three values with weights 1, 2 and 97 have the last as median and a weighted mean."""
    summary = Distribution.of_weighted(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 97.0]))
    assert summary.p50 == 3.0
    assert summary.mean == pytest.approx(2.96)
