"""The numbered invariants of docs/concepts/invariants.md, each on random workloads, limits and policies."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.records import Rows
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.results.metrics import summarise
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import ClosedLoop, OpenLoop, Workload


@st.composite
def runs(draw: st.DrawFn) -> tuple[EngineLimits, Workload, EngineResult]:
    """Draw a run with its log: any policy, open or closed loop, one to three replicas, few blocks."""
    n = draw(st.integers(1, 40))
    prompt = draw(st.lists(st.integers(1, 90), min_size=n, max_size=n))
    output = draw(st.lists(st.integers(0, 40), min_size=n, max_size=n))
    gaps = draw(st.lists(st.integers(0, 60_000), min_size=n, max_size=n))
    policy = draw(st.sampled_from(["vllm-v1", "vllm-v1", "vllm-v0", "orca", "sglang"]))
    stages = draw(st.sampled_from([1, 1, 2, 3])) if policy == "vllm-v1" else 1
    is_chunked = policy == "sglang" or draw(st.booleans())
    budget = draw(st.one_of(st.integers(1, 12), st.integers(10, 140)))
    # SGLang and V0 decode every sequence in each step and are refused with more of them than tokens; SGLang's steps of
    # prompts are whole blocks.
    most_seqs = min(10, budget) if policy == "sglang" or (policy == "vllm-v0" and not is_chunked) else 10
    limits = EngineLimits(
        policy=policy,
        max_num_seqs=draw(st.integers(1, most_seqs)),
        max_num_batched_tokens=budget,
        max_model_len=draw(st.sampled_from([90, 200])),
        block_size=draw(st.sampled_from([n for n in (1, 8, 16) if policy != "sglang" or budget % n == 0])),
        num_gpu_blocks=draw(st.integers(8, 60)),
        enable_chunked_prefill=is_chunked,
        async_scheduling=draw(st.booleans()),
        reserve_full_isl=draw(st.booleans()),
        reserves_output=policy == "vllm-v1" and draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 12])),
    )
    tables = linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        step_ps=2_000,
        token_ps=100,
        decode_kv_ps=draw(st.integers(0, 40)),
        host_step_ps=draw(st.sampled_from([0, 9_000])),
        stages=stages,
        send_ps=50 if stages > 1 else 0,
    )
    is_closed = draw(st.booleans())
    workload = Workload(
        name="drawn",
        arrival_s=np.cumsum(gaps) * 1e-12,
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        client=ClosedLoop(concurrency=draw(st.integers(1, 12))) if is_closed else OpenLoop(),
    )
    dp = draw(st.integers(1, 3))
    return limits, workload, run_replicas(tables, limits, workload, dp=dp, log=True)


def rows(result: EngineResult) -> Rows:
    """Return the iteration log."""
    assert result.log is not None
    return result.log


@settings(max_examples=60)
@given(runs())
def test_i1_requests_are_conserved(run: tuple[EngineLimits, Workload, EngineResult]) -> None:
    """I1: every request is answered or rejected with a reason, exactly once."""
    _, workload, result = run
    assert int(result.is_finished.sum()) + sum(result.rejections().values()) == len(workload)
    metrics = summarise(result)
    assert metrics.finished + sum(metrics.rejected.values()) == metrics.requests == len(workload)
    assert (result.finish_ps >= 0).all()


@settings(max_examples=60)
@given(runs())
def test_i2_tokens_are_conserved(run: tuple[EngineLimits, Workload, EngineResult]) -> None:
    """I2: without preemption the steps run exactly the prompts and all output tokens but the first of each request.

    Not counted are decodes that run before the last token is seen, and are thrown away.
    """
    _, workload, result = run
    done = result.is_finished
    prompts = int(workload.prompt_tokens[done].sum())
    decodes = int(np.maximum(workload.output_tokens[done] - 1, 0).sum())
    computed = int(result.replicas.prefill_tokens.sum())
    decoded = int((result.replicas.decode_tokens - result.replicas.surplus_tokens).sum())
    if result.preemptions.sum() == 0:
        assert (computed, decoded) == (prompts, decodes)
    # A preempted request computes its tokens again, and gets one token per resumed prefill instead of a decode.
    assert computed >= prompts
    assert decodes - int(result.preemptions.sum()) <= decoded <= decodes


@settings(max_examples=60)
@given(runs())
def test_i3_blocks_are_conserved(run: tuple[EngineLimits, Workload, EngineResult]) -> None:
    """I3: free blocks never leave [0, all], and the KV that decodes read fits into the blocks in use."""
    limits, _, result = run
    log = rows(result)
    free = log["free"]
    assert ((free >= 0) & (free <= limits.num_gpu_blocks)).all()
    used_tokens = (limits.num_gpu_blocks - free) * limits.block_size
    assert (log["decode_kv"] <= used_tokens).all()
    assert (result.replicas.peak_blocks <= limits.num_gpu_blocks).all()


@settings(max_examples=60)
@given(runs())
def test_i4_limits_hold_in_every_step(run: tuple[EngineLimits, Workload, EngineResult]) -> None:
    """I4: no step exceeds the token budget or the sequence limit, and none is empty."""
    limits, _, result = run
    log = rows(result)
    tokens = log["prefill_tokens"] + log["decodes"]
    assert ((tokens > 0) & (tokens <= limits.max_num_batched_tokens)).all()
    assert (log["running"] <= limits.max_num_seqs).all()
    assert (log["prefills"] + log["decodes"] <= log["running"]).all()


@settings(max_examples=60)
@given(runs())
def test_i5_the_clock_of_a_replica_never_goes_back(run: tuple[EngineLimits, Workload, EngineResult]) -> None:
    """I5: decisions, starts and ends of a replica ascend; a step is decided before it starts and ends after it."""
    _, _, result = run
    log = rows(result)
    for replica in range(result.replicas.dp):
        own = log[log["replica"] == replica]
        for column in ("decision_ps", "start_ps", "end_ps"):
            assert (np.diff(own[column]) >= 0).all()
        assert (own["decision_ps"] <= own["start_ps"]).all()
        assert (own["start_ps"] < own["end_ps"]).all()


@settings(max_examples=60)
@given(runs())
def test_i6_a_request_moves_forward(run: tuple[EngineLimits, Workload, EngineResult]) -> None:
    """I6: sent <= scheduled < first token <= finish, and later tokens each take a step."""
    _, workload, result = run
    done = result.is_finished
    assert (result.arrival_ps <= result.scheduled_ps)[done].all()
    assert (result.scheduled_ps < result.first_token_ps)[done].all()
    gaps = np.maximum(workload.output_tokens - 1, 0)
    assert (result.finish_ps - result.first_token_ps >= gaps * 2_000)[done].all()


@settings(max_examples=60)
@given(runs())
def test_i7_first_come_first_served(run: tuple[EngineLimits, Workload, EngineResult]) -> None:
    """I7: on one replica, a request sent earlier is admitted no later."""
    _, _, result = run
    for replica in range(result.replicas.dp):
        mine = np.flatnonzero((result.replica == replica) & result.is_finished)
        order = mine[np.argsort(result.arrival_ps[mine], kind="stable")]
        arrival, scheduled = result.arrival_ps[order], result.scheduled_ps[order]
        later = np.maximum.accumulate(scheduled)
        # Those sent at the same moment may be taken in any order.
        assert ((scheduled == later) | (arrival == np.concatenate([[-1], arrival[:-1]]))).all()


@settings(max_examples=60)
@given(runs())
def test_i8_nobody_is_busier_than_always(run: tuple[EngineLimits, Workload, EngineResult]) -> None:
    """I8: busy time of a stage never exceeds the time passed, and the parts of a step add up to it."""
    _, _, result = run
    totals = result.replicas
    assert (totals.busy_ps <= totals.last_end_ps * totals.stages).all()
    assert (totals.active_ps <= totals.last_end_ps).all()
    parts = totals.token_ps + totals.attention_ps + totals.sample_ps
    if totals.stages == 1:
        # Each step is rounded down to a whole picosecond.
        assert (abs(parts + totals.host_ps - totals.busy_ps) <= totals.steps + 2).all()


@settings(max_examples=60)
@given(runs())
def test_i9_a_replica_with_work_does_not_rest(run: tuple[EngineLimits, Workload, EngineResult]) -> None:
    """I9: without pipeline stages, a gap between two steps ends at an arrival: nobody was there to be served."""
    _, _, result = run
    if result.replicas.stages > 1:
        return
    log = rows(result)
    for replica in range(result.replicas.dp):
        own = log[log["replica"] == replica]
        starts, ends = own["start_ps"][1:], own["end_ps"][:-1]
        resting = np.flatnonzero(starts > ends)
        arrivals = set(result.arrival_ps[result.replica == replica].tolist())
        assert {int(starts[i]) for i in resting} <= arrivals | {a + 1 for a in arrivals}
