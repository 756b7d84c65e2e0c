"""Two pools on one clock: the engine against a plain scheduler, and what holds under every policy and layout."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.engine.disaggregated import DisaggregatedResult, HandOver, Pool, run_disaggregated
from simulator.engine.policies import interpreted
from simulator.engine_profiles.engine_limits import EngineLimits, PipelineRanks
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, Workload
from tests.simulator.two_pools_reference import TwoPools


def random_pool(rng: np.random.Generator, *, most_tokens: int, **limits: Any) -> Pool:
    """Draw a pool of one to three replicas, of one to three ranks each, under tight limits."""
    max_seqs = int(rng.integers(1, 8))
    max_tokens = int(rng.integers(max(8, max_seqs), 120))
    block = int(rng.choice([1, 4, 16]))
    tables = linear_tables(
        max_num_seqs=max_seqs,
        max_num_batched_tokens=max_tokens,
        step_ps=int(rng.integers(1_000, 9_000)),
        token_ps=int(rng.integers(1, 400)),
        sample_seq_ps=int(rng.integers(0, 50)),
        decode_seq_ps=int(rng.integers(0, 99)),
        decode_kv_ps=int(rng.integers(0, 60)),
        pair_ps=int(rng.integers(0, 9)),
        host_step_ps=int(rng.choice([0, 7_000])),
        host_seq_ps=int(rng.choice([0, 300])),
    )
    drawn: dict[str, Any] = {
        "policy": "vllm-v1",
        "max_num_seqs": max_seqs,
        "max_num_batched_tokens": max_tokens,
        "max_model_len": 200,
        "block_size": block,
        "num_gpu_blocks": int(rng.integers(most_tokens, 3 * most_tokens)) // block + 2,
        "async_scheduling": bool(rng.random() < 0.5),
        "reserve_full_isl": bool(rng.random() < 0.7),
        "reserves_output": bool(rng.random() < 0.3),
    }
    return Pool(
        tables=tables,
        limits=EngineLimits(**(drawn | limits)),
        dp=int(rng.integers(1, 4)),
        attention_dp=int(rng.choice([1, 1, 2, 3])),
        router="least_outstanding" if rng.random() < 0.5 else "round_robin",
    )


def random_case(seed: int) -> tuple[Pool, Pool, Workload, HandOver, int]:
    """Draw two pools, a client and how they agree; the last is the time of a token on the link."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 50))
    prompt, output = rng.integers(1, 90, n), rng.integers(0, 60, n)
    workload = Workload(
        name=f"pools {seed}",
        arrival_s=np.cumsum(rng.exponential(rng.choice([1e-9, 30e-9, 300e-9]), n)),
        prompt_tokens=prompt,
        output_tokens=output,
    )
    kind = rng.integers(0, 3)
    if kind == 1:
        workload = replace(workload, client=ClosedLoop(concurrency=int(rng.integers(1, 20))))
    elif kind == 2:
        after = np.array([int(rng.integers(0, i)) if i and rng.random() < 0.6 else -1 for i in range(n)])
        workload = replace(workload, after=after, think_s=rng.exponential(40e-9, n))
    agreed = HandOver(
        offers_first=bool(rng.random() < 0.5),
        passes_first_token=bool(rng.random() < 0.5),
        delay_s=float(rng.choice([0.0, 5e-9])),
        reserved_tokens=int(rng.choice([0, 0, 5])),
    )
    prefill = random_pool(rng, most_tokens=100, frontend_s=float(rng.choice([0.0, 3e-9])))
    return prefill, random_pool(rng, most_tokens=150), workload, agreed, int(rng.choice([0, 20, 400]))


def replayed(case: tuple[Pool, Pool, Workload, HandOver, int], **options: Any) -> DisaggregatedResult:
    """Run the engine on a case."""
    prefill, decode, workload, agreed, token_ps = case
    return run_disaggregated(
        prefill,
        decode,
        workload,
        transfer_s=lambda n: n.astype(np.float64) * (token_ps * 1e-12),
        hand_over=agreed,
        **options,
    )


@pytest.mark.parametrize("first", range(0, 400, 40))
def test_both_pools_agree_with_the_reference(first: int) -> None:
    """Every time of every request equals the plain scheduler's: blocks, links, ranks, closed loops and sessions."""
    for seed in range(first, first + 40):
        case = random_case(seed)
        prefill, decode, workload, agreed, token_ps = case
        reference = TwoPools(prefill, decode, workload, [int(n) * token_ps for n in workload.prompt_tokens], agreed)
        reference.run()
        result = replayed(case)
        prompts, answers = reference.first.jobs, reference.second.jobs
        assert result.requests.arrival_ps.tolist() == [job.sent for job in prompts], seed
        assert result.prefill.scheduled_ps.tolist() == [job.scheduled for job in prompts], seed
        assert result.kv_ready_ps.tolist() == [job.kv_ready for job in answers], seed
        assert result.requests.first_token_ps.tolist() == [job.first for job in answers], seed
        done = result.requests.is_finished
        assert result.requests.finish_ps[done].tolist() == [j.finish for j in answers if j.generated == j.output], seed
        both = [p.preemptions + a.preemptions for p, a in zip(prompts, answers, strict=True)]
        assert result.requests.preemptions.tolist() == both, seed


def half_ns_per_token(tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds on the link of prompts, [n]."""
    return tokens.astype(np.float64) * 0.5e-9


COLUMNS = ("arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps", "status", "preemptions", "replica")


def assert_same(one: DisaggregatedResult, other: DisaggregatedResult, seed: int) -> None:
    """Assert that two runs agree on every request, in both pools."""
    for name in COLUMNS:
        for side in ("prefill", "requests"):
            assert np.array_equal(getattr(getattr(one, side), name), getattr(getattr(other, side), name)), (seed, name)
    assert np.array_equal(one.kv_ready_ps, other.kv_ready_ps), seed
    assert np.array_equal(one.requests.replicas.busy_ps, other.requests.replicas.busy_ps), seed
    assert np.array_equal(one.requests.replicas.steps, other.requests.replicas.steps), seed


def of_sglang(pool: Pool, *, is_caching: bool) -> Pool:
    """Return the pool under SGLang's scheduler, with blocks that divide the tokens of a step."""
    limits, tables = pool.limits, pool.tables
    tokens = -(-max(limits.max_num_batched_tokens, 16) // 16) * 16
    limits = replace(
        limits,
        policy="sglang",
        max_num_batched_tokens=tokens,
        reserves_output=False,
        enable_prefix_caching=is_caching,
    )
    longer = linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=tokens,
        step_ps=int(tables.token_mixed_ps[0, 0]),
        token_ps=int(tables.token_mixed_ps[0, 1] - tables.token_mixed_ps[0, 0]),
        decode_kv_ps=7,
        host_step_ps=tables.host_step_ps,
    )
    return replace(pool, limits=limits, tables=longer)


def sglang_case(seed: int) -> tuple[Pool, Pool, Workload, HandOver, int]:
    """Draw two pools under SGLang's scheduler; the prefill pool of every third case has the radix cache."""
    prefill, decode, workload, agreed, token_ps = random_case(seed)
    pools = of_sglang(prefill, is_caching=seed % 3 == 0), of_sglang(decode, is_caching=False)
    return *pools, workload, replace(agreed, passes_first_token=True), token_ps


def assert_leaps_as_steps(case: tuple[Pool, Pool, Workload, HandOver, int], seed: int) -> DisaggregatedResult:
    """Assert that a case leaping, stepping and repeated gives the same, all of it served; return that."""
    result = replayed(case)
    assert_same(result, replayed(case, leap=False), seed)
    assert_same(result, replayed(case), seed)
    done = result.requests.is_finished
    known = done.sum() + sum(result.requests.rejections().values())
    assert known == len(case[2]), seed
    assert (result.kv_ready_ps[done] > result.prefill.finish_ps[done]).all(), seed
    assert (result.requests.first_token_ps[done] >= result.kv_ready_ps[done]).all(), seed
    return result


@pytest.mark.parametrize("is_sglang", [False, True])
@pytest.mark.parametrize("first", range(1000, 1400, 100))
def test_leaping_equals_stepping_and_nothing_is_lost(first: int, is_sglang: bool) -> None:
    """A run that leaps over decode steps, one that takes each, and a repeat agree to the picosecond; all is served."""
    for seed in range(first, first + 100):
        assert_leaps_as_steps(sglang_case(seed) if is_sglang else random_case(seed), seed)


@pytest.mark.parametrize("seed", [11934, 11242])
def test_offers_leave_what_a_retracted_prompt_still_lacks(seed: int) -> None:
    """No offer takes the blocks that a request which SGLang has retracted needs for the rest of its prompt."""
    result = assert_leaps_as_steps(sglang_case(seed), seed)
    assert (result.requests.preemptions > result.prefill.preemptions).any()


@pytest.mark.parametrize("offers_first", [False, True])
def test_who_was_retracted_runs_again_before_an_offer_is_taken(offers_first: bool) -> None:
    """The second of three loses its blocks to the first; those that come free are its own, not the third prompt's."""
    tables = linear_tables(max_num_seqs=4, max_num_batched_tokens=16, step_ps=1000, token_ps=0)
    limits = EngineLimits(
        policy="sglang",
        max_num_seqs=4,
        max_num_batched_tokens=16,
        max_model_len=100,
        block_size=1,
        num_gpu_blocks=60,
        async_scheduling=False,
    )
    small = Pool(tables=tables, limits=limits)
    large = Pool(tables=tables, limits=replace(limits, num_gpu_blocks=200))
    three = Workload(
        name="three",
        arrival_s=np.zeros(3),
        prompt_tokens=np.array([20, 20, 35]),
        output_tokens=np.array([30, 30, 5]),
    )
    agreed = HandOver(offers_first=offers_first, passes_first_token=True)
    result = run_disaggregated(large, small, three, transfer_s=half_ns_per_token, hand_over=agreed)
    assert result.requests.preemptions.tolist() == [0, 1, 0]
    assert result.requests.finish_ps[0] < result.requests.finish_ps[1] < result.kv_ready_ps[2]


def staged(pool: Pool, *, stages: int, drafts: int) -> Pool:
    """Return the pool on pipeline stages, or with drafts whose steps may verify all of them."""
    limits = replace(
        pool.limits,
        num_speculative_tokens=drafts,
        speculative_acceptance=0.7,
        max_num_batched_tokens=pool.limits.max_num_batched_tokens + drafts,
        reserves_output=False,
    )
    if drafts:
        limits = replace(limits, async_scheduling=False)
    tables = linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        step_ps=3_000,
        token_ps=90,
        decode_kv_ps=7,
        stages=stages,
        send_ps=200 if stages > 1 else 0,
        drafts=drafts,
    )
    return replace(pool, limits=limits, tables=tables)


@pytest.mark.parametrize(("stages", "drafts"), [(2, 0), (1, 2)])
def test_stages_and_drafts_in_pools_lose_nothing(stages: int, drafts: int) -> None:
    """Pipeline stages in either pool, and drafts in the decode pool, on ranks or not: all is served, twice alike."""
    for seed in range(2000, 2100):
        prefill, decode, workload, agreed, token_ps = random_case(seed)
        agreed = replace(agreed, passes_first_token=False)
        if stages > 1:
            prefill = staged(prefill, stages=1 + seed % 2, drafts=0)
        case = prefill, staged(decode, stages=stages, drafts=drafts), workload, agreed, token_ps
        result = replayed(case)
        assert_same(result, replayed(case), seed)
        done = result.requests.is_finished
        assert done.sum() + sum(result.requests.rejections().values()) == len(workload), seed
        assert (result.requests.first_token_ps[done] > result.kv_ready_ps[done]).all(), seed


@pytest.mark.parametrize("needs", ["any", "all"])
def test_ranks_of_stages_serve_either_pool(needs: PipelineRanks) -> None:
    """Under both engines' rules for a rank without work all is served, the same again; no KV waits for ever."""
    for seed in range(2000, 2150):
        prefill, decode, workload, agreed, token_ps = random_case(seed)
        rules: dict[str, Any] = {"pipeline_ranks": "any"}
        if needs == "all":
            rules = {"pipeline_ranks": "all", "async_pipeline": "returned", "reserves_output": True}
        pools = [
            replace(pool, limits=replace(pool.limits, **rules))
            for pool in (
                staged(prefill, stages=1 + seed % 3, drafts=0),
                staged(decode, stages=1 + seed // 3 % 3, drafts=0),
            )
        ]
        case = pools[0], pools[1], workload, replace(agreed, passes_first_token=False), token_ps
        result = replayed(case)
        assert_same(result, replayed(case), seed)
        assert result.requests.is_finished.sum() + sum(result.requests.rejections().values()) == len(workload), seed


@pytest.mark.parametrize("seed", [3, 11])
def test_compiled_pools_are_the_python_they_are_made_of(seed: int) -> None:
    """The entry run as plain Python gives what its compiled code gives."""
    case = random_case(seed)
    assert_same(replayed(case), replayed(case, engine=interpreted("run_two_pools")), seed)


def test_a_capped_client_waits_for_answers_of_the_decode_pool() -> None:
    """With one slot a request is sent when the one before it has its last token, though it was due earlier."""
    prefill, decode, workload, agreed, token_ps = random_case(1)
    capped = replace(workload, client=CappedLoop(concurrency=1), arrival_s=workload.arrival_s * 0.0)
    result = replayed((prefill, decode, capped, agreed, token_ps)).requests
    assert (result.scheduled_ps[1:] > result.finish_ps[:-1]).all()


def test_links_carry_one_transfer_at_a_time() -> None:
    """Two prompts of two prefill replicas wait for the link of the only decode replica; two replicas have one each."""
    tables = linear_tables(max_num_seqs=4, max_num_batched_tokens=64, step_ps=1000, token_ps=0)
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=4,
        max_num_batched_tokens=64,
        max_model_len=100,
        block_size=1,
        num_gpu_blocks=200,
        async_scheduling=False,
    )
    two, one = Pool(tables=tables, limits=limits, dp=2), Pool(tables=tables, limits=limits)
    both = Workload(
        name="both", arrival_s=np.zeros(2), prompt_tokens=np.full(2, 10), output_tokens=np.full(2, 3), client=OpenLoop()
    )
    ways = {(2, 2): [6000, 6000], (2, 1): [6000, 11000], (1, 2): [6000, 11000]}
    for (senders, receivers), expected in ways.items():
        pools = two if senders == 2 else one, two if receivers == 2 else one
        result = run_disaggregated(*pools, both, transfer_s=half_ns_per_token)
        assert sorted(result.kv_ready_ps.tolist()) == expected


def test_blocks_of_a_prompt_are_held_until_its_kv_has_left() -> None:
    """A prefill pool with room for one prompt starts the second when the KV of the first is gone."""
    tables = linear_tables(max_num_seqs=4, max_num_batched_tokens=64, step_ps=1000, token_ps=0)
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=4,
        max_num_batched_tokens=64,
        max_model_len=100,
        block_size=1,
        num_gpu_blocks=200,
        async_scheduling=False,
    )
    small = Pool(tables=tables, limits=replace(limits, num_gpu_blocks=15))
    both = Workload(name="both", arrival_s=np.zeros(2), prompt_tokens=np.full(2, 10), output_tokens=np.full(2, 3))
    result = run_disaggregated(small, Pool(tables=tables, limits=limits), both, transfer_s=half_ns_per_token)
    assert result.prefill.scheduled_ps.tolist() == [0, 6000]


def test_prompts_wait_for_blocks_of_the_decode_pool_where_these_are_taken_first() -> None:
    """Where blocks are taken before a prompt is computed, the second one starts when the first is answered."""
    tables = linear_tables(max_num_seqs=4, max_num_batched_tokens=64, step_ps=1000, token_ps=0)
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=4,
        max_num_batched_tokens=64,
        max_model_len=100,
        block_size=1,
        num_gpu_blocks=200,
        async_scheduling=False,
    )
    small = Pool(tables=tables, limits=replace(limits, num_gpu_blocks=15))
    both = Workload(name="both", arrival_s=np.zeros(2), prompt_tokens=np.full(2, 10), output_tokens=np.full(2, 3))
    large = Pool(tables=tables, limits=limits)
    first = HandOver(offers_first=True, passes_first_token=True)
    result = run_disaggregated(large, small, both, transfer_s=half_ns_per_token, hand_over=first)
    assert result.requests.first_token_ps.tolist() == [6000, 14000]
    assert result.prefill.scheduled_ps.tolist() == [0, 8000]
    after = replace(first, offers_first=False)
    result = run_disaggregated(large, small, both, transfer_s=half_ns_per_token, hand_over=after)
    assert result.prefill.scheduled_ps.tolist() == [0, 0]
