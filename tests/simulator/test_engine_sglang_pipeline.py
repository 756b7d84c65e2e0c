"""SGLang's pipelines against a plain scheduler written from the rules of its source."""

from dataclasses import replace

import numpy as np
import pytest

from simulator.engine.request import ABORTED, FINISHED
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.errors import UserError
from simulator.steps.step_tables import StepTables, linear_tables
from simulator.workload.workload import ClosedLoop, PrefixBlocks, Workload
from tests.simulator.pipeline_reference import Costs
from tests.simulator.sglang_pipeline_reference import Loop


def tables_of(limits: EngineLimits, costs: Costs, stages: int) -> StepTables:
    """Step tables with the costs of the reference."""
    return linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        step_ps=costs.step,
        token_ps=costs.token,
        decode_seq_ps=costs.seq,
        decode_kv_ps=costs.kv,
        stages=stages,
        send_ps=costs.send,
        host_step_ps=costs.host,
    )


def random_case(seed: int) -> tuple[EngineLimits, Costs, int, Workload]:
    """Draw a workload under tight limits."""
    rng = np.random.default_rng(seed)
    n, stages = int(rng.integers(1, 60)), int(rng.integers(2, 5))
    block = int(rng.choice([1, 1, 4]))
    budget = int(rng.integers(4, 25)) * 4
    limits = EngineLimits(
        policy="sglang",
        max_num_seqs=int(rng.integers(2, min(16, budget) + 1)),
        max_num_batched_tokens=budget,
        max_prefill_tokens=int(rng.integers(1, 3)) * budget,
        max_model_len=200,
        block_size=block,
        num_gpu_blocks=int(rng.integers(110, 500)) // block + 1,
        async_scheduling=False,
        enable_prefix_caching=False,
    )
    costs = Costs(
        step=int(rng.integers(2_000, 9_000)),
        token=int(rng.integers(1, 300)),
        seq=int(rng.integers(0, 99)),
        kv=int(rng.integers(0, 40)),
        send=int(rng.integers(0, 900)),
        host=int(rng.choice([0, 500, 20_000])),
    )
    workload = Workload(
        name=f"random {seed}",
        arrival_s=np.cumsum(rng.exponential(rng.choice([1e-9, 30e-9]), n)),
        prompt_tokens=rng.integers(1, 60, n),
        output_tokens=rng.integers(1, 40, n),
    )
    return limits, costs, stages, workload


def compare(seed: int) -> tuple[EngineResult, Loop]:
    """Assert that the engine agrees with the reference on every step and request."""
    limits, costs, stages, workload = random_case(seed)
    loop = Loop(limits, costs, stages, workload)
    loop.run()
    result = run_replicas(tables_of(limits, costs, stages), limits, workload, log=True)
    assert result.log is not None
    tokens = result.log["prefill_tokens"] + result.log["decodes"]
    columns = [result.log[name] for name in ("decision_ps", "start_ps", "end_ps")]
    assert np.column_stack([*columns, tokens]).tolist() == [list(step) for step in loop.steps]
    assert result.scheduled_ps.tolist() == [job.scheduled for job in loop.jobs]
    assert result.first_token_ps.tolist() == [job.first for job in loop.jobs]
    assert result.finish_ps.tolist() == [job.finish for job in loop.jobs]
    assert result.preemptions.tolist() == [job.retractions for job in loop.jobs]
    assert (result.status == ABORTED).tolist() == [job.is_aborted for job in loop.jobs]
    return result, loop


def shared_prefixes(workload: Workload, seed: int) -> PrefixBlocks:
    """Draw prompts that begin alike: ids of four tokens out of three sequences."""
    rng = np.random.default_rng(seed)
    blocks = workload.prompt_tokens // 4
    ids = [
        100 * family + np.arange(count) for family, count in zip(rng.integers(0, 3, len(blocks)), blocks, strict=True)
    ]
    return PrefixBlocks(
        block_tokens=4,
        offsets=np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64),
        ids=np.concatenate(ids).astype(np.int64),
    )


def test_stages_agree_with_the_reference_on_every_step_and_request() -> None:
    """400 random workloads under tight limits: decisions, starts, ends, tokens, retractions and aborts are the rules'.

    Among them are retractions, aborts, prompts that wait for a seat in the next slot, and pages larger than a token.
    """
    retracted = aborted = waited = 0
    for seed in range(400):
        result, loop = compare(seed)
        retracted += bool(result.preemptions.any())
        aborted += any(job.is_aborted for job in loop.jobs)
        waited += loop.skipped_chunks > 0
    assert min(retracted, aborted, waited) > 50


def test_requests_and_kv_are_conserved_and_runs_repeat() -> None:
    """2,000 runs, half with the radix cache, some in a closed loop or on two replicas, add up and repeat to the bit.

    The engine itself counts requests and tokens after every run; no KV is held at the end.
    """
    hits = 0
    for seed in range(2000):
        limits, costs, stages, workload = random_case(10_000 + seed)
        limits = replace(limits, enable_prefix_caching=seed % 2 == 0)
        if seed % 3 == 0:
            client = ClosedLoop(concurrency=1 + seed % 7)
            workload = replace(workload, client=client, arrival_s=np.zeros(len(workload)))
        if seed % 4 == 0:
            workload = replace(workload, prefix=shared_prefixes(workload, seed))
        if seed % 5 == 0:
            limits = replace(limits, max_num_seqs=2)
        tables = tables_of(limits, costs, stages)
        first = run_replicas(tables, limits, workload, dp=1 + seed % 2)
        second = run_replicas(tables, limits, workload, dp=1 + seed % 2)
        assert first.finish_ps.tolist() == second.finish_ps.tolist()
        assert first.status.tolist() == second.status.tolist()
        assert set(first.status.tolist()) <= {FINISHED, ABORTED}
        hits += bool(first.replicas.prefix_hit_tokens.any()) and not first.preemptions.any()
    assert hits > 100


@pytest.mark.parametrize(
    ("changed", "ranks", "said"),
    [
        ({"async_scheduling": True}, 1, "async_scheduling True"),
        ({"scheduler_recv_interval": 2}, 1, "scheduler_recv_interval 2"),
        ({}, 2, "attention_dp 2"),
        ({"max_num_seqs": 1}, 1, "must be at least 2 for 2 pipeline stages"),
    ],
)
def test_what_sglangs_stages_are_not_simulated_with_is_refused(changed: dict[str, int], ranks: int, said: str) -> None:
    """An overlap schedule, a receive interval, ranks, and the one seat that SGLang itself hangs with."""
    limits, costs, _, workload = random_case(0)
    with pytest.raises(UserError, match=said):
        run_replicas(tables_of(limits, costs, 2), replace(limits, **changed), workload, attention_dp=ranks)


def test_a_prompt_is_computed_in_one_micro_batch_after_the_other_by_hand() -> None:
    """Two stages of 1 us and a prompt of three chunks: they follow one another at once, so it is computed after 4 us.

    Its answer then decodes in the slot of the last chunk, one token in 2 us, since the other slot has nothing.
    """
    tables = linear_tables(max_num_seqs=4, max_num_batched_tokens=8, step_ps=10**6, token_ps=0, stages=2)
    limits = EngineLimits(
        policy="sglang",
        max_num_seqs=4,
        max_num_batched_tokens=8,
        max_model_len=100,
        block_size=1,
        num_gpu_blocks=100,
        async_scheduling=False,
    )
    workload = Workload(name="one", arrival_s=np.zeros(1), prompt_tokens=np.array([24]), output_tokens=np.array([3]))
    result = run_replicas(tables, limits, workload)
    assert result.first_token_ps.tolist() == [4 * 10**6]
    assert result.finish_ps.tolist() == [8 * 10**6]
