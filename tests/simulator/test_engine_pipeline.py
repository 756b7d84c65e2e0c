"""Pipeline stages against a plain scheduler written from the rules, without and with ranks that step together."""

from dataclasses import replace
from typing import Final, Literal

import numpy as np
import pytest

from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import AsyncPipeline, EngineLimits, PipelineRanks
from simulator.steps.step_tables import StepTables, linear_tables
from simulator.workload.workload import Workload
from tests.simulator.pipeline_reference import Costs, Pipeline

Rule = AsyncPipeline | Literal["synchronous"]
RULES: Final[tuple[Rule, ...]] = ("synchronous", "staggered", "returned", "unbroken")
Case = tuple[StepTables, EngineLimits, Workload, Pipeline]


def random_case(seed: int, rule: Rule, ranks: int = 1, needs: PipelineRanks = "any") -> Case:
    """Draw a workload under tight limits, and the reference that has served it on so many ranks per stage."""
    rng = np.random.default_rng(seed)
    n, stages = int(rng.integers(1, 60)), int(rng.integers(2, 5))
    block = int(rng.choice([1, 4, 16]))
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=int(rng.integers(1, 12)),
        max_num_batched_tokens=int(rng.integers(12, 120)),
        max_model_len=200,
        block_size=block,
        num_gpu_blocks=int(rng.integers(110, 500)) // block + 1,
        async_scheduling=rule != "synchronous",
        async_pipeline="staggered" if rule == "synchronous" else rule,
        pipeline_ranks=needs,
        reserves_output=needs == "all",
    )
    costs = Costs(
        step=int(rng.integers(2_000, 9_000)),
        token=int(rng.integers(1, 300)),
        seq=int(rng.integers(0, 99)),
        kv=int(rng.integers(0, 40)),
        send=int(rng.integers(0, 900)),
        host=int(rng.choice([0, 500, 20_000])),
        pooled=int(rng.integers(0, 200)) if ranks > 1 else 0,
        padded=int(rng.integers(0, 40)) if ranks > 1 else 0,
    )
    workload = Workload(
        name=f"random {seed}",
        arrival_s=np.cumsum(rng.exponential(rng.choice([1e-9, 30e-9]), n)),
        prompt_tokens=rng.integers(1, 60, n),
        output_tokens=rng.integers(1, 40, n),
        # Some ranks are without requests for long, or for ever.
        replica=rng.choice(ranks, n, p=rng.dirichlet(np.full(ranks, 0.7))) if ranks > 1 else None,
    )
    tables = linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        step_ps=costs.step,
        token_ps=costs.token,
        pooled_token_ps=costs.pooled,
        padded_tokens=costs.padded,
        decode_seq_ps=costs.seq,
        decode_kv_ps=costs.kv,
        stages=stages,
        send_ps=costs.send,
        host_step_ps=costs.host,
    )
    reference = Pipeline(limits, costs, stages, workload, ranks)
    reference.run()
    return tables, limits, workload, reference


def compare(case: Case, ranks: int = 1) -> EngineResult:
    """Assert that the engine agrees with the reference on every step and request; returns its result."""
    tables, limits, workload, reference = case
    result = run_replicas(tables, limits, workload, attention_dp=ranks, log=True)
    assert result.log is not None
    tokens = result.log["prefill_tokens"] + result.log["decodes"]
    columns = [result.log[name] for name in ("replica", "decision_ps", "start_ps", "end_ps")]
    assert np.column_stack([*columns, tokens]).tolist() == [list(step) for step in reference.steps]
    assert result.scheduled_ps.tolist() == [request.scheduled for request in reference.requests]
    assert result.first_token_ps.tolist() == [request.first for request in reference.requests]
    assert result.finish_ps.tolist() == [request.finish for request in reference.requests]
    assert result.preemptions.tolist() == [request.preemptions for request in reference.requests]
    return result


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(60))
def test_stages_agree_with_the_reference_on_every_step_and_request(seed: int, rule: Rule) -> None:
    """Random workloads under tight limits: decisions, starts, ends, tokens and preemptions are those of the rules."""
    compare(random_case(seed, rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(60))
def test_ranks_of_stages_agree_with_the_reference(seed: int, rule: Rule) -> None:
    """So do two to four attention-data-parallel ranks, of which those without work are padded."""
    ranks = 2 + seed % 3
    compare(random_case(seed, rule, ranks), ranks)


@pytest.mark.parametrize("rule", ["synchronous", "returned"])
@pytest.mark.parametrize("seed", range(60))
def test_ranks_that_need_one_another_agree_with_the_reference(seed: int, rule: Rule) -> None:
    """So do ranks of which one without work holds up all, as in TensorRT-LLM, which reserves answers."""
    ranks = 2 + seed % 3
    compare(random_case(seed, rule, ranks, "all"), ranks)


@pytest.mark.parametrize("rule", RULES)
def test_random_ranks_reach_the_rare_rules(rule: Rule) -> None:
    """Among the cases above are preemptions, idle ranks, and micro-batches of some ranks only."""
    preempted = idle = partial = 0
    for seed in range(60):
        ranks = 2 + seed % 3
        tables, limits, workload, _ = random_case(seed, rule, ranks)
        result = run_replicas(tables, limits, workload, attention_dp=ranks, log=True)
        assert result.log is not None
        preempted += bool(result.preemptions.any())
        idle += bool((result.replicas.steps == 0).any())
        partial += bool(result.replicas.steps.min() < len(np.unique(result.log["start_ps"])))
    assert min(preempted, idle, partial) > 2


def test_one_rank_with_requests_is_a_plain_pipeline() -> None:
    """Where one rank alone has requests and others are padded, its times are those of a replica on its own."""
    for seed in range(20):
        tables, limits, workload, _ = random_case(seed, "staggered")
        lone = replace(workload, replica=np.ones(len(workload), dtype=np.int64))
        ranks = run_replicas(tables, limits, lone, attention_dp=3)
        alone = run_replicas(tables, limits, workload)
        assert ranks.finish_ps.tolist() == alone.finish_ps.tolist()


def test_ranks_hold_one_another_up_by_hand() -> None:
    """Two stages of 1 us and two prompts on one rank, each a micro-batch: the second need not wait for the first.

    In vLLM it runs from 1 to 3 us. In TensorRT-LLM the other rank has only a prompt that is under way until 2 us, so
    the second prompt runs beside that one's first decode, from 2 to 4 us.
    """
    tables = linear_tables(max_num_seqs=4, max_num_batched_tokens=64, step_ps=10**6, token_ps=0, stages=2)
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=4,
        max_num_batched_tokens=64,
        max_model_len=100,
        block_size=16,
        num_gpu_blocks=40,
        enable_chunked_prefill=False,
        async_pipeline="returned",
        reserves_output=True,
    )
    workload = Workload(
        name="two ranks",
        arrival_s=np.zeros(3),
        prompt_tokens=np.array([10, 40, 40]),
        output_tokens=np.array([2, 1, 1]),
        replica=np.array([0, 1, 1]),
    )
    padded = run_replicas(tables, limits, workload, attention_dp=2)
    held = run_replicas(tables, replace(limits, pipeline_ranks="all"), workload, attention_dp=2)
    assert padded.first_token_ps.tolist() == [2 * 10**6, 2 * 10**6, 3 * 10**6]
    assert held.first_token_ps.tolist() == [2 * 10**6, 2 * 10**6, 4 * 10**6]


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("seed", range(10))
def test_stages_alike_run_as_stages_looked_up_one_by_one(seed: int, ranks: int) -> None:
    """Tables that differ from stage to stage only where nothing is read give the same run as equal ones."""
    tables, limits, workload, _ = random_case(seed, "staggered", ranks)
    windowed = tables.windowed_ps.copy()
    windowed[1::2] += 1  # without a sliding window nobody attends in it
    assert tables.window_tokens == 0
    apart = replace(tables, windowed_ps=windowed)
    alike, unlike = (run_replicas(one, limits, workload, attention_dp=ranks) for one in (tables, apart))
    for column in ("first_token_ps", "finish_ps", "status"):
        np.testing.assert_array_equal(getattr(unlike, column), getattr(alike, column))
    for total in ("busy_ps", "bubble_ps", "token_ps", "attention_ps", "sample_ps", "send_ps", "host_ps"):
        np.testing.assert_array_equal(getattr(unlike.replicas, total), getattr(alike.replicas, total))
