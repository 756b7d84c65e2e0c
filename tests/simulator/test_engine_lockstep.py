"""Attention data parallelism: ranks schedule apart and step together."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import ClosedLoop, Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=8,
    max_num_batched_tokens=100,
    max_model_len=1000,
    block_size=10,
    num_gpu_blocks=100,
    async_scheduling=False,
)
TABLES = linear_tables(
    max_num_seqs=8, max_num_batched_tokens=100, step_ps=10**12, token_ps=10**10, sample_seq_ps=10**9, decode_kv_ps=10**8
)


def requests(rows: list[tuple[float, int, int]], replica: list[int] | None = None) -> Workload:
    """Build requests of (arrival in s, prompt, output), each on a given rank."""
    arrival, prompt, output = zip(*rows, strict=True)
    return Workload(
        name="ranks",
        arrival_s=np.array(arrival, dtype=np.float64),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        replica=None if replica is None else np.array(replica),
    )


def test_a_step_is_padded_to_the_rank_with_most_tokens() -> None:
    """Prompts of 80 and 10 tokens on two ranks both take 1 s + 80 x 10 ms and one sample."""
    result = run_replicas(TABLES, LIMITS, requests([(0.0, 80, 1), (0.0, 10, 1)], [0, 1]), attention_dp=2)
    assert (result.first_token_ps / 1e9).tolist() == [1801.0, 1801.0]


@pytest.mark.parametrize(("padded_tokens", "pooled"), [(79, 45), (80, 80)])
def test_experts_take_the_tokens_there_are_above_a_captured_size(padded_tokens: int, pooled: int) -> None:
    """Prompts of 80 and 10 tokens: 80 x 10 ms on the busiest rank, and 20 ms for each of the mean 45, or of all 80."""
    tables = linear_tables(
        max_num_seqs=8,
        max_num_batched_tokens=100,
        step_ps=10**12,
        token_ps=10**10,
        pooled_token_ps=2 * 10**10,
        padded_tokens=padded_tokens,
        sample_seq_ps=10**9,
    )
    result = run_replicas(tables, LIMITS, requests([(0.0, 80, 1), (0.0, 10, 1)], [0, 1]), attention_dp=2)
    assert (result.first_token_ps / 1e9).tolist() == [1801.0 + 20 * pooled] * 2


def test_a_prefill_on_one_rank_delays_the_decodes_of_the_other() -> None:
    """The decode that runs beside a 90-token prompt takes as long as the prompt; alone on its rank it would not."""
    rows = [(0.0, 10, 3), (0.5, 90, 1)]
    together = run_replicas(TABLES, LIMITS, requests(rows, [0, 1]), attention_dp=2)
    apart = run_replicas(TABLES, LIMITS, requests(rows, [0, 1]), dp=2)
    decode = [1000 + 10 + 1 + kv / 10 for kv in (11, 12)]
    assert apart.finish_ps[0] / 1e9 == pytest.approx(1101 + sum(decode))
    # Both ranks step for 1 s + 90 x 10 ms; the decode's attention and sample are the slower of the two.
    assert together.finish_ps[0] / 1e9 == pytest.approx(1101 + (1000 + 900 + 1 + 1.1) + decode[1])


@pytest.mark.parametrize("policy", ["vllm-v1", "sglang"])
def test_one_rank_is_the_plain_engine(policy: Literal["vllm-v1", "sglang"]) -> None:
    """If only one rank ever has requests, its times are those of a replica on its own."""
    rows = [(0.4 * i, 20 + 7 * i % 60, 1 + i % 9) for i in range(30)]
    for is_async in (False, True):
        limits = replace(LIMITS, policy=policy, async_scheduling=is_async)
        ranks = run_replicas(TABLES, limits, requests(rows, [1] * 30), attention_dp=3)
        alone = run_replicas(TABLES, limits, requests(rows))
        assert ranks.finish_ps.tolist() == alone.finish_ps.tolist()
        assert ranks.scheduled_ps.tolist() == alone.scheduled_ps.tolist()


def test_sglang_ranks_prefill_while_others_decode() -> None:
    """A rank with a prompt waits with its decodes; its neighbour's decode goes on, as long as the prompt takes."""
    rows = [(0.0, 10, 3), (0.0, 10, 3), (0.5, 90, 1)]
    limits = replace(LIMITS, policy="sglang")
    result = run_replicas(TABLES, limits, requests(rows, [0, 1, 1]), attention_dp=2)
    first, second = 1000 + 100 + 1, 1000 + 900 + 1 + 1.1
    finish = result.finish_ps / 1e9
    assert finish[2] == pytest.approx(first + second)
    assert finish[0] == pytest.approx(first + second + 1000 + 10 + 1 + 1.2)
    assert finish[1] == pytest.approx(finish[0] + 1000 + 10 + 1 + 1.2)


@pytest.mark.parametrize("policy", ["vllm-v1", "sglang"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_all_ranks_share_one_clock_and_nothing_is_lost(
    seed: int, is_async: bool, policy: Literal["vllm-v1", "sglang"]
) -> None:
    """Under few blocks every request is answered, and steps of a replica's ranks never overlap in part."""
    rng = np.random.default_rng(seed)
    n = 60
    workload = Workload(
        name="random",
        arrival_s=np.cumsum(rng.exponential(0.7, n)),
        prompt_tokens=rng.integers(1, 150, n),
        output_tokens=rng.integers(1, 30, n),
    )
    if seed % 2:
        workload = replace(workload, client=ClosedLoop(concurrency=9, warmup=5))
    limits = replace(LIMITS, policy=policy, async_scheduling=is_async, num_gpu_blocks=22)
    result = run_replicas(TABLES, limits, workload, dp=2, attention_dp=3, router="least_outstanding", log=True)
    assert result.is_finished.all()
    assert result.log is not None
    for replica in range(2):
        own = result.log[result.log["replica"] // 3 == replica]
        times = np.unique(np.column_stack([own["start_ps"], own["end_ps"]]), axis=0)
        assert (times[1:, 0] >= times[:-1, 1]).all()
    assert (result.replicas.busy_ps + result.replicas.bubble_ps <= result.replicas.last_end_ps).all()


def test_other_policies_are_refused() -> None:
    """What lockstep does not model is an error by name."""
    with pytest.raises(UserError, match="attention_dp 2"):
        run_replicas(TABLES, replace(LIMITS, policy="orca"), requests([(0.0, 5, 1)]), attention_dp=2)


def test_ranks_of_stages_that_need_one_another_reserve_answers() -> None:
    """Without reserved answers a rank may preempt what the others wait for, which no engine does."""
    stages = linear_tables(max_num_seqs=8, max_num_batched_tokens=100, step_ps=10**12, token_ps=10**10, stages=2)
    limits = replace(LIMITS, pipeline_ranks="all")
    with pytest.raises(UserError, match="answers are reserved"):
        run_replicas(stages, limits, requests([(0.0, 5, 1)]), attention_dp=2)
    assert run_replicas(stages, replace(limits, reserves_output=True), requests([(0.0, 5, 1)]), attention_dp=2)
