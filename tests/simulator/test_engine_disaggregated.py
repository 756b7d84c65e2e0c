"""Prefill and decode pools: where a request's time goes, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.disaggregated import HandOver, Pool, run_disaggregated
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.results.metrics import summarise
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import Workload

MS = 10**9
LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=16,
    max_num_batched_tokens=512,
    max_model_len=1024,
    block_size=16,
    num_gpu_blocks=200,
    async_scheduling=False,
)
TABLES = linear_tables(max_num_seqs=16, max_num_batched_tokens=512, step_ps=10 * MS, token_ps=MS // 10)
POOL = Pool(tables=TABLES, limits=LIMITS)


def workload(arrival_s: list[float], prompt: int, output: int) -> Workload:
    """Build equal requests at given times."""
    n = len(arrival_s)
    return Workload(
        name="equal", arrival_s=np.array(arrival_s), prompt_tokens=np.full(n, prompt), output_tokens=np.full(n, output)
    )


def test_one_request_by_hand() -> None:
    """Prefill 10 + 100 x 0.1 ms, transfer 5 ms, one token computed again, then two decodes of 10.1 ms."""
    result = run_disaggregated(POOL, POOL, workload([0.0], 100, 3), transfer_s=lambda n: n * 50e-6)
    assert result.prefill.finish_ps.tolist() == [20 * MS]
    assert result.kv_ready_ps.tolist() == [25 * MS]
    assert result.requests.first_token_ps.tolist() == [25 * MS + 10 * MS + MS // 10]
    assert result.requests.finish_ps.tolist() == [25 * MS + 3 * (10 * MS + MS // 10)]


def test_transfers_of_one_replica_follow_each_other() -> None:
    """Two prompts computed in one step leave one after the other; from two replicas to two they leave together."""
    both = workload([0.0, 0.0], 100, 2)
    one = run_disaggregated(POOL, POOL, both, transfer_s=lambda n: n * 50e-6)
    assert np.diff(one.kv_ready_ps).tolist() == [5 * MS]
    two = run_disaggregated(replace(POOL, dp=2), replace(POOL, dp=2), both, transfer_s=lambda n: n * 50e-6)
    assert np.diff(two.kv_ready_ps).tolist() == [0]


def test_decodes_are_not_delayed_by_prompts() -> None:
    """Under a stream of long prompts every token after the first takes a step with at most a few recomputed tokens."""
    stream = workload([0.05 * i for i in range(60)], 400, 30)
    result = run_disaggregated(POOL, POOL, stream, transfer_s=lambda n: n * 1e-6)
    assert result.requests.is_finished.all()
    assert summarise(result.requests).tpot_s.p99 < 0.0125


def test_a_preempted_request_computes_its_prompt_in_the_decode_pool() -> None:
    """With few blocks decoding requests preempt each other; their KV is gone, and prompts are computed there."""
    tight = replace(POOL, limits=replace(LIMITS, num_gpu_blocks=20))
    result = run_disaggregated(POOL, tight, workload([0.0, 0.0, 0.0], 90, 60), transfer_s=lambda n: n * 0.0)
    assert result.requests.is_finished.all()
    assert result.requests.preemptions.sum() > 0
    assert result.requests.replicas.prefill_tokens.sum() > 90


def test_what_the_prefill_pool_rejects_never_reaches_the_decode_pool() -> None:
    """A prompt longer than the context is rejected once, with its reason."""
    result = run_disaggregated(POOL, POOL, workload([0.0], 2000, 3), transfer_s=lambda n: n * 0.0)
    assert result.kv_ready_ps.tolist() == [-1]
    assert result.requests.rejections() == {"rejected: longer than max_model_len": 1}


def test_what_is_not_modelled_is_refused() -> None:
    """Time-outs, recorded replicas, prefix caching in the decode pool and other policies are named."""
    one = workload([0.0], 10, 3)
    with pytest.raises(UserError, match="time-outs and recorded replicas"):
        run_disaggregated(POOL, POOL, replace(one, client_timeout_s=1.0), transfer_s=lambda n: n * 0.0)
    caching = replace(POOL, limits=replace(LIMITS, enable_prefix_caching=True))
    with pytest.raises(UserError, match="without prefix caching"):
        run_disaggregated(POOL, caching, one, transfer_s=lambda n: n * 0.0)
    orca = replace(POOL, limits=replace(LIMITS, policy="orca"))
    with pytest.raises(UserError, match="prefill pool is not modelled for policy 'orca'"):
        run_disaggregated(orca, POOL, one, transfer_s=lambda n: n * 0.0)
    drafting = replace(POOL, limits=replace(LIMITS, num_speculative_tokens=2))
    with pytest.raises(UserError, match="gets first tokens"):
        run_disaggregated(
            POOL, drafting, one, transfer_s=lambda n: n * 0.0, hand_over=HandOver(passes_first_token=True)
        )
