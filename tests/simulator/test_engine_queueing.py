"""The engine against closed forms: hand-computed requests, queueing theory, closed-loop limits, routers, bad input."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits, RouterName
from simulator.results.metrics import summarise
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import ClosedLoop, PrefixBlocks, Workload

MS = 10**9  # ps
LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=64,
    max_num_batched_tokens=2048,
    max_model_len=4096,
    block_size=16,
    num_gpu_blocks=10_000,
)
TABLES = linear_tables(
    max_num_seqs=64,
    max_num_batched_tokens=2048,
    step_ps=5 * MS,
    token_ps=MS // 100,
    sample_seq_ps=MS // 10,
    decode_kv_ps=MS // 1000,
    pair_ps=MS // 100_000,
    host_step_ps=MS,
)


def workload(n: int, prompt: int, output: int, arrival_s: object = 0.0, **more: object) -> Workload:
    """``n`` equal requests."""
    return Workload(
        name="equal",
        arrival_s=np.broadcast_to(np.asarray(arrival_s, dtype=np.float64), n).copy(),
        prompt_tokens=np.full(n, prompt),
        output_tokens=np.full(n, output),
        **more,  # type: ignore[arg-type]  # the optional fields of a workload
    )


def first_and_finish_ms(result: EngineResult) -> list[tuple[float, float]]:
    """First token and finish of each request."""
    return list(zip(result.first_token_ps / MS, result.finish_ps / MS, strict=True))


def test_one_request_by_hand() -> None:
    """100 prompt tokens: 5 + 1 + 0.1 + 5,050 pairs x 10 ns; then decodes over 101 and 102 tokens of KV."""
    result = run_replicas(TABLES, LIMITS, workload(1, 100, 3))
    prefill = 5 + 1 + 0.1 + 0.0505
    decode = [5 + 0.01 + 0.1 + kv / 1000 for kv in (101, 102)]
    ((first, finish),) = first_and_finish_ms(result)
    assert first == pytest.approx(prefill, abs=1e-9)
    assert finish == pytest.approx(prefill + sum(decode), abs=1e-9)


def test_chunks_expand_what_is_cached_by_hand() -> None:
    """A prompt of 250 in chunks of 100: 3 us for each of the 0, 100 and 200 tokens cached before them."""
    chunked = replace(LIMITS, max_num_batched_tokens=100)
    costly = linear_tables(
        max_num_seqs=64, max_num_batched_tokens=2048, step_ps=5 * MS, token_ps=0, context_kv_ps=3 * 10**6
    )
    result = run_replicas(costly, chunked, workload(1, 250, 1))
    assert result.first_token_ps[0] / MS == pytest.approx(3 * 5 + 0.003 * (0 + 100 + 200), abs=1e-9)


def test_two_requests_by_hand_with_and_without_asynchronous_scheduling() -> None:
    """The second arrives during the first decode: it joins the next step, or the one after it, and both then share."""
    arrivals = np.array([0.0, 0.007])  # the first step ends at 6.1505 ms
    both = workload(2, 100, 3, arrivals)
    synchronous = run_replicas(replace(TABLES, host_step_ps=0), replace(LIMITS, async_scheduling=False), both)
    one_decode = 5 + 0.01 + 0.1 + 0.101
    joined = 5 + 1.01 + 0.2 + 0.0505 + 0.102
    after_two = 6.1505 + one_decode
    (first, finish), (second_first, second_finish) = first_and_finish_ms(synchronous)
    assert (first, finish) == (pytest.approx(6.1505, abs=1e-9), pytest.approx(after_two + joined, abs=1e-9))
    assert second_first == pytest.approx(after_two + joined, abs=1e-9)
    assert second_finish == pytest.approx(after_two + joined + 2 * 5.11 + 0.101 + 0.102, abs=1e-9)
    asynchronous = run_replicas(replace(TABLES, host_step_ps=0), LIMITS, both)
    (_, finish), (second_first, _) = first_and_finish_ms(asynchronous)
    assert finish == pytest.approx(6.1505 + 2 * 5.11 + 0.101 + 0.102, abs=1e-9)
    assert second_first == pytest.approx(finish + 6.1505, abs=1e-9)


def test_host_time_is_an_addend_without_and_a_floor_with_asynchronous_scheduling() -> None:
    """A host of 9 ms per step over a device of about 5 ms: 14 ms per token, or 9."""
    slow = replace(TABLES, host_step_ps=9 * MS)
    requests = workload(1, 16, 101)
    floor = summarise(run_replicas(slow, LIMITS, requests))
    addend = summarise(run_replicas(slow, replace(LIMITS, async_scheduling=False), requests))
    assert floor.tpot_s.mean == pytest.approx(9e-3, rel=1e-9)
    assert addend.tpot_s.mean == pytest.approx((5.11 + 0.0665 + 9) * 1e-3, rel=1e-6)


def test_front_end_time_is_part_of_ttft_and_delays_the_engine() -> None:
    """Six milliseconds of client and tokeniser: TTFT and E2E grow by six milliseconds."""
    plain = run_replicas(TABLES, LIMITS, workload(1, 100, 3))
    late = run_replicas(TABLES, replace(LIMITS, frontend_s=0.006), workload(1, 100, 3))
    assert (late.first_token_ps - plain.first_token_ps).tolist() == [6 * MS]
    assert (late.finish_ps - plain.finish_ps).tolist() == [6 * MS]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_slot_is_an_m_d_1_queue(load: float) -> None:
    """With one slot and constant service S, the mean wait is load S / (2 (1 - load)) within four standard errors."""
    n = 40_000
    rng = np.random.default_rng(7)
    tables = linear_tables(max_num_seqs=1, max_num_batched_tokens=64, step_ps=MS, token_ps=0)
    limits = replace(LIMITS, max_num_seqs=1, max_num_batched_tokens=64, async_scheduling=False)
    service_s = 10 * 1e-3  # ten tokens
    arrivals = np.cumsum(rng.exponential(service_s / load, n))
    result = run_replicas(tables, limits, workload(n, 16, 10, arrivals))
    wait_s = (result.scheduled_ps - result.arrival_ps) * 1e-12
    batches = wait_s.reshape(40, -1).mean(axis=1)
    expected = load * service_s / (2 * (1 - load))
    assert abs(wait_s.mean() - expected) < 4 * batches.std() / np.sqrt(len(batches) - 1)


@pytest.mark.parametrize("concurrency", [1, 4, 32])
def test_a_closed_loop_keeps_its_concurrency_and_obeys_littles_law(concurrency: int) -> None:
    """Requests in flight = throughput x time in system = the concurrency, up to the last requests' tail."""
    requests = workload(concurrency * 40, 64, 50, client=ClosedLoop(concurrency=concurrency))
    metrics = summarise(run_replicas(TABLES, LIMITS, requests))
    assert metrics.throughput_requests_per_s * metrics.e2e_s.mean == pytest.approx(concurrency, rel=0.06)


def test_the_frontend_passes_the_requests_of_a_closed_loop_one_by_one() -> None:
    """Four slots send at once; with 5 ms between two requests the engine sees one every 5 ms, in order."""
    gap_ps = 5_000_000_000
    requests = workload(4, 64, 1, client=ClosedLoop(concurrency=4))
    result = run_replicas(TABLES, replace(LIMITS, frontend_s=0.006, frontend_gap_s=gap_ps * 1e-12), requests)
    assert result.arrival_ps.tolist() == [0, 0, 0, 0]
    assert (np.diff(result.scheduled_ps) >= 0).all()
    seen = 6_000_000_000 + gap_ps * np.arange(4)
    assert (result.scheduled_ps >= seen).all()
    alone = run_replicas(TABLES, replace(LIMITS, frontend_s=0.006), requests)
    assert (alone.scheduled_ps < seen)[1:].all()


def test_a_warm_up_is_a_phase_of_its_own_and_is_not_measured() -> None:
    """The measured burst starts when the last warm-up request is answered, and statistics begin there."""
    requests = workload(20, 64, 10, client=ClosedLoop(concurrency=4, warmup=6))
    result = run_replicas(TABLES, LIMITS, requests)
    assert result.measured.tolist() == [False] * 6 + [True] * 14
    burst = result.arrival_ps[6:10]
    assert (burst == burst[0]).all()
    assert burst[0] == result.finish_ps[:6].max()
    assert summarise(result).requests == 14


@pytest.mark.parametrize("router", ["round_robin", "vllm", "least_outstanding"])
def test_equal_replicas_share_equal_requests(router: RouterName) -> None:
    """Four replicas under steady load each serve about a quarter."""
    arrivals = np.arange(800) * 0.02
    result = run_replicas(TABLES, LIMITS, workload(800, 100, 40, arrivals), dp=4, router=router)
    assert result.is_finished.all()
    assert np.bincount(result.replica, minlength=4).tolist() == pytest.approx([200] * 4, abs=20)


def test_least_outstanding_avoids_the_replica_that_is_busy() -> None:
    """While one long request holds a replica, short ones that come one by one all go to the other."""
    prompts, outputs = np.full(20, 16), np.full(20, 2)
    outputs[0] = 2000
    long_and_short = Workload(
        name="one long", arrival_s=np.arange(20) * 0.1, prompt_tokens=prompts, output_tokens=outputs
    )
    result = run_replicas(TABLES, LIMITS, long_and_short, dp=2, router="least_outstanding")
    assert (result.replica[1:] != result.replica[0]).all()


def test_the_prefix_router_sends_a_prompt_where_its_blocks_are() -> None:
    """Requests of two families settle on one replica each and hit there."""
    n = 20
    ids = np.concatenate([np.arange(4) + 100 * (i % 2) for i in range(n)])
    prefix = PrefixBlocks(block_tokens=16, offsets=np.arange(n + 1) * 4, ids=ids)
    limits = replace(LIMITS, enable_prefix_caching=True)
    requests = workload(n, 70, 4, np.arange(n) * 0.5, prefix=prefix)
    result = run_replicas(TABLES, limits, requests, dp=2, router="prefix")
    assert set(result.hit_tokens[2:].tolist()) == {64}
    assert len(set(result.replica[::2].tolist())) == 1


def test_a_recorded_replica_is_honoured() -> None:
    """A replay sends each request where it went, whatever the router would do."""
    recorded = np.array([1, 1, 0, 1])
    result = run_replicas(TABLES, LIMITS, workload(4, 16, 4, replica=recorded), dp=2)
    assert result.replica.tolist() == recorded.tolist()


def test_a_follow_up_is_sent_after_its_predecessor_and_the_pause() -> None:
    """Turn two of a session is sent ``think_s`` after turn one was answered."""
    session = workload(3, 16, 4, after=np.array([-1, 0, 1]), think_s=np.array([0.0, 0.5, 0.0]))
    result = run_replicas(TABLES, LIMITS, session)
    assert result.arrival_ps[1] == result.finish_ps[0] + 500 * MS
    assert result.arrival_ps[2] == result.finish_ps[1]
    assert result.is_finished.all()


def test_requests_that_can_never_run_are_reported_one_by_one() -> None:
    """Too long for the context, or for all KV memory: a status, an immediate answer, and the others go on."""
    mixed = Workload(
        name="mixed",
        arrival_s=np.zeros(3),
        prompt_tokens=np.array([5000, 3000, 10]),
        output_tokens=np.array([10, 10, 10]),
        client=ClosedLoop(concurrency=1),
    )
    result = run_replicas(TABLES, replace(LIMITS, num_gpu_blocks=100), mixed)
    assert result.rejections() == {
        "rejected: longer than max_model_len": 1,
        "rejected: longer than all KV memory": 1,
    }
    assert result.is_finished.tolist() == [False, False, True]


def test_a_request_for_no_output_ends_with_its_prefill() -> None:
    """Zero output tokens: finished when the prompt is computed, no token counted, no TPOT."""
    result = run_replicas(TABLES, LIMITS, workload(2, 100, 0))
    assert (result.first_token_ps == result.finish_ps).all()
    metrics = summarise(result)
    assert metrics.throughput_tokens_per_s == 0
    assert np.isnan(metrics.tpot_s.mean)


def test_same_input_same_output() -> None:
    """Two runs agree in every byte."""
    requests = workload(300, 64, 30, np.arange(300) * 0.003)
    first = run_replicas(TABLES, LIMITS, requests, dp=2, router="vllm")
    second = run_replicas(TABLES, LIMITS, requests, dp=2, router="vllm")
    assert first.finish_ps.tobytes() == second.finish_ps.tobytes()
    assert first.replica.tobytes() == second.replica.tobytes()


@pytest.mark.parametrize(
    ("limits", "more", "message"),
    [
        ({"num_speculative_tokens": 2, "policy": "orca"}, {}, "num_speculative_tokens 2 is not modelled"),
        ({"num_speculative_tokens": 2}, {}, "sample_ps has 65 entries, the engine limits need 193"),
        ({"speculative_acceptance": 1.5}, {}, "speculative_acceptance is 1.5"),
        ({"max_num_seqs": 0}, {}, "max_num_seqs is 0"),
        ({"max_num_batched_tokens": 4096}, {}, "token_mixed_ps has 2049 entries"),
        ({"policy": "vllm-v0", "enable_prefix_caching": True}, {}, "prefix caching"),
        ({}, {"arrival_s": np.array([0.0, 2.0, 1.0])}, "arrives at 1.0 s, after one at 2.0 s"),
        ({}, {"prompt": 0}, "request 0 has prompt_tokens 0"),
        ({}, {"client": ClosedLoop(concurrency=0)}, "concurrency is 0"),
        ({}, {"client": ClosedLoop(concurrency=1, warmup=3)}, "warmup is 3 of 3"),
        ({}, {"replica": np.array([0, 0, 2])}, "request 2 ran on replica 2"),
        ({}, {"client": ClosedLoop(concurrency=1), "after": np.array([-1, 0, 1])}, "closed loop"),
    ],
)
def test_what_the_engine_cannot_model_is_refused_by_name(
    limits: dict[str, object], more: dict[str, object], message: str
) -> None:
    """Every refusal names the value; nothing is approximated in silence."""
    with pytest.raises(UserError, match=message):
        run_replicas(TABLES, replace(LIMITS, **limits), workload(**({"n": 3, "prompt": 16, "output": 4} | more)))  # type: ignore[arg-type]  # a table of cases
