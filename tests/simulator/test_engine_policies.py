"""Scheduler decisions of small scenarios, written down from the rules: what runs in which step, and when."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import StepTables, linear_tables
from simulator.workload.workload import PrefixBlocks, Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=8,
    max_num_batched_tokens=100,
    max_model_len=1000,
    block_size=10,
    num_gpu_blocks=100,
    async_scheduling=False,
)


def second_per_step(limits: EngineLimits = LIMITS, stages: int = 1) -> StepTables:
    """Every step of every stage takes one second."""
    return linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        step_ps=10**12,
        token_ps=0,
        stages=stages,
    )


def serve(
    requests: list[tuple[float, int, int]], limits: EngineLimits = LIMITS, *, stages: int = 1, **more: object
) -> EngineResult:
    """Run requests of (arrival in s, prompt, output) and keep the log."""
    arrival, prompt, output = zip(*requests, strict=True)
    workload = Workload(
        name="scenario",
        arrival_s=np.array(arrival, dtype=np.float64),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        **more,  # type: ignore[arg-type]  # the optional fields of a workload
    )
    return run_replicas(second_per_step(limits, stages), limits, workload, log=True)


def steps(result: EngineResult) -> list[tuple[float, int, int, int]]:
    """Each step as (start in s, prefill tokens, prefilling requests, decoding requests)."""
    assert result.log is not None
    columns = ["start_ps", "prefill_tokens", "prefills", "decodes"]
    return [(start / 1e12, *rest) for start, *rest in result.log[columns].tolist()]


def test_a_prompt_is_chunked_across_the_budget_and_decodes_come_first() -> None:
    """A 230-token prompt takes 99 + 99 + 32 tokens beside one decode; the next prompt fills the last step's rest."""
    result = serve([(0.0, 40, 6), (0.5, 230, 2), (0.6, 50, 2)])
    assert steps(result)[:5] == [(0.0, 40, 1, 0), (1.0, 99, 1, 1), (2.0, 99, 1, 1), (3.0, 82, 2, 1), (4.0, 0, 0, 3)]


def test_the_threshold_caps_each_prefill_but_not_a_request_on_its_own() -> None:
    """With a threshold of 30 two prompts advance side by side; the one left alone takes all it needs."""
    limits = replace(LIMITS, long_prefill_token_threshold=30)
    assert steps(serve([(0.0, 80, 1), (0.0, 60, 1)], limits)) == [(0.0, 60, 2, 0), (1.0, 60, 2, 0), (2.0, 20, 1, 0)]
    assert steps(serve([(0.0, 80, 1)], limits)) == [(0.0, 80, 1, 0)]


def test_the_head_of_the_queue_blocks_smaller_requests_behind_it() -> None:
    """A prompt that needs more blocks than are free is not overtaken by one that would fit."""
    limits = replace(LIMITS, num_gpu_blocks=12)
    result = serve([(0.0, 60, 3), (0.5, 80, 1), (0.6, 10, 1)], limits)
    assert (result.scheduled_ps / 1e12).tolist() == [0.0, 3.0, 3.0]


def test_the_full_sequence_gate_looks_at_the_whole_prompt() -> None:
    """Without the gate a first chunk is admitted on the blocks it needs; with it the whole prompt must fit."""
    requests = [(0.0, 60, 3), (0.5, 130, 1)]
    limits = replace(LIMITS, num_gpu_blocks=18, max_num_batched_tokens=50)
    assert serve(requests, limits).scheduled_ps[1] == 4 * 10**12
    assert serve(requests, replace(limits, reserve_full_isl=False)).scheduled_ps[1] == 1 * 10**12


def test_the_last_admitted_request_is_preempted_and_starts_over_with_its_tokens() -> None:
    """Two requests outgrow the blocks: the later one loses all and resumes on prompt + generated, before all others."""
    limits = replace(LIMITS, num_gpu_blocks=6)
    result = serve([(0.0, 18, 30), (0.0, 18, 5), (0.5, 10, 1)], limits)
    assert result.preemptions.tolist() == [0, 0, 0]
    result = serve([(0.0, 28, 20), (0.0, 28, 5), (0.5, 10, 1)], limits)
    assert result.preemptions.tolist() == [0, 1, 0]
    # The fourth step needs a fourth block for both; the second request had 3 tokens by then and resumes on 31, and the
    # third one, which would have fitted, waits behind it.
    assert steps(result)[2:5] == [(2.0, 0, 0, 2), (3.0, 0, 0, 1), (4.0, 0, 0, 1)]
    assert steps(result)[-2:] == [(20.0, 31 + 10, 2, 0), (21.0, 0, 0, 1)]
    assert result.is_finished.all()


def test_reserved_answers_are_admitted_later_and_never_preempted() -> None:
    """The case above with 6 blocks: 47 and 32 tokens do not fit together, so that the second one waits instead."""
    limits = replace(LIMITS, num_gpu_blocks=6, reserves_output=True)
    result = serve([(0.0, 28, 20), (0.0, 28, 5), (0.5, 10, 1)], limits)
    assert result.preemptions.tolist() == [0, 0, 0]
    # 5 blocks hold 28 + 20 - 1 tokens; 4 more are free when the first request ends, and the third waits its turn.
    assert (result.scheduled_ps / 1e12).tolist() == [0.0, 20.0, 20.0]
    roomy = serve([(0.0, 28, 20), (0.0, 28, 5), (0.5, 10, 1)], replace(limits, num_gpu_blocks=9))
    assert (roomy.scheduled_ps / 1e12).tolist() == [0.0, 0.0, 5.0]


def test_a_cached_prompt_computes_its_last_block_again() -> None:
    """A second identical prompt of 40 tokens finds 3 of its 4 full blocks; one of 45 tokens finds all 4."""
    limits = replace(LIMITS, enable_prefix_caching=True)
    prefix = PrefixBlocks(block_tokens=10, offsets=np.array([0, 4, 8, 12]), ids=np.array([1, 2, 3, 4] * 3))
    result = serve([(0.0, 40, 2), (5.0, 40, 2), (10.0, 45, 2)], limits, prefix=prefix)
    assert result.hit_tokens.tolist() == [0, 30, 40]


def test_requests_admitted_in_the_same_step_share_blocks() -> None:
    """The second of two identical prompts arriving together finds what the first one just scheduled."""
    limits = replace(LIMITS, enable_prefix_caching=True)
    prefix = PrefixBlocks(block_tokens=10, offsets=np.array([0, 4, 8]), ids=np.array([1, 2, 3, 4] * 2))
    result = serve([(0.0, 45, 1), (0.0, 45, 1)], limits, prefix=prefix)
    assert steps(result) == [(0.0, 50, 2, 0)]
    assert result.hit_tokens.tolist() == [0, 40]


def test_the_tail_of_the_least_recently_used_prompt_is_evicted_first() -> None:
    """With room for six blocks, a new 20-token prompt evicts the last blocks of the oldest prompt only."""
    limits = replace(LIMITS, enable_prefix_caching=True, num_gpu_blocks=6)
    ids = [1, 2, 3, 4, 11, 12, 1, 2, 3, 4]
    prefix = PrefixBlocks(block_tokens=10, offsets=np.array([0, 4, 6, 10]), ids=np.array(ids))
    result = serve([(0.0, 45, 1), (2.0, 25, 1), (4.0, 45, 1)], limits, prefix=prefix)
    assert result.hit_tokens.tolist() == [0, 0, 30]


def test_async_scheduling_sees_an_arrival_one_step_late() -> None:
    """Step k is decided at the start of step k - 1: what arrives in between waits for step k + 1."""
    requests = [(0.0, 10, 9), (2.5, 10, 1)]
    assert serve(requests).first_token_ps[1] == 4 * 10**12
    assert serve(requests, replace(LIMITS, async_scheduling=True)).first_token_ps[1] == 5 * 10**12


def test_async_scheduling_frees_a_slot_one_step_late() -> None:
    """With one slot, the next request starts right after the last token, or one empty step later."""
    requests = [(0.0, 10, 3), (0.5, 10, 1)]
    limits = replace(LIMITS, max_num_seqs=1)
    assert serve(requests, limits).first_token_ps[1] == 4 * 10**12
    late = serve(requests, replace(limits, async_scheduling=True))
    assert late.scheduled_ps[1] == 3 * 10**12
    assert late.first_token_ps[1] == 4 * 10**12
    three = [(0.0, 10, 3), (0.0, 10, 9), (0.5, 10, 1)]
    two_slots = replace(limits, max_num_seqs=2)
    assert serve(three, two_slots).first_token_ps[2] == 4 * 10**12
    assert serve(three, replace(two_slots, async_scheduling=True)).first_token_ps[2] == 5 * 10**12


def test_v0_runs_prompts_before_decodes_in_steps_of_their_own() -> None:
    """A decoding request waits while later prompts are taken; then all decode together."""
    limits = replace(LIMITS, policy="vllm-v0", enable_chunked_prefill=False, max_num_batched_tokens=100)
    result = serve([(0.0, 40, 3), (0.5, 90, 2), (0.5, 20, 2)], limits)
    assert steps(result) == [
        (0.0, 40, 1, 0),
        (1.0, 90, 1, 0),
        (2.0, 20, 1, 0),
        (3.0, 0, 0, 3),
        (4.0, 0, 0, 1),
    ]


def test_orca_mixes_whole_prompts_with_decodes_and_reserves_the_answer() -> None:
    """A prompt joins the running batch in one piece, once the blocks of its whole answer are free."""
    limits = replace(LIMITS, policy="orca", num_gpu_blocks=10)
    result = serve([(0.0, 40, 11), (0.5, 41, 10), (0.6, 10, 1)], limits)
    assert steps(result)[:2] == [(0.0, 40, 1, 0), (1.0, 41, 1, 1)]
    assert result.preemptions.sum() == 0
    assert result.scheduled_ps[2] == 11 * 10**12


def test_pipeline_stages_overlap_micro_batches_and_a_request_is_in_one_at_a_time() -> None:
    """Two requests admitted apart alternate on two stages: each gets a token every two seconds."""
    limits = replace(LIMITS, max_num_seqs=2)
    result = serve([(0.0, 10, 4), (0.0, 95, 4)], limits, stages=2)
    # The budget of 100 splits the second prompt: 90 tokens beside the first, the rest one second later.
    assert steps(result)[:2] == [(0.0, 100, 2, 0), (1.0, 5, 1, 0)]
    assert (result.first_token_ps / 1e12).tolist() == [2.0, 3.0]
    assert (result.finish_ps / 1e12).tolist() == [8.0, 9.0]


def test_requests_prefilled_together_leave_a_pipeline_half_empty() -> None:
    """One micro-batch on two stages: a token every two seconds, every stage idle half of the time."""
    result = serve([(0.0, 10, 4), (0.0, 10, 4)], stages=2)
    assert (result.finish_ps / 1e12).tolist() == [8.0, 8.0]
    assert result.replicas.busy_ps.tolist() == [8 * 10**12]
    assert result.replicas.last_end_ps.tolist() == [8 * 10**12]


SGLANG = replace(LIMITS, policy="sglang", block_size=1, num_gpu_blocks=1000)


def test_sglang_prefills_first_and_decodes_wait() -> None:
    """A prompt of 230 tokens takes three steps in a row; the request that was decoding gets no token meanwhile."""
    result = serve([(0.0, 40, 3), (0.5, 230, 2)], SGLANG)
    assert steps(result) == [
        (0.0, 40, 1, 0),
        (1.0, 100, 1, 0),
        (2.0, 100, 1, 0),
        (3.0, 30, 1, 0),
        (4.0, 0, 0, 2),
        (5.0, 0, 0, 1),
    ]


def test_sglang_fills_the_chunk_behind_the_prompt_that_is_partly_computed() -> None:
    """The second step computes the last 30 tokens of the long prompt and the 40 of the next."""
    assert steps(serve([(0.0, 130, 1), (0.0, 40, 1)], SGLANG)) == [(0.0, 100, 1, 0), (1.0, 70, 2, 0)]


def test_sglang_reserves_a_share_of_the_answers_to_come() -> None:
    """With 300 tokens of KV, a request asking for 100 + 90 blocks the queue behind it until another one leaves."""
    limits = replace(SGLANG, num_gpu_blocks=300)
    result = serve([(0.0, 60, 60), (0.5, 100, 90), (0.6, 10, 5)], limits)
    # Free when the second asks: 300 - 60 = 240, reserved 0.7 x 59 = 41; 190 < 199, so it is admitted.
    assert result.scheduled_ps.tolist()[1] == 10**12
    tight = serve([(0.0, 60, 60), (0.5, 100, 99), (0.6, 10, 5)], limits)
    # 199 is not fewer than 199: it waits for the first to leave, and the small one waits behind it.
    assert (tight.scheduled_ps[1:] >= tight.finish_ps[0]).all()


def test_sglang_retracts_the_request_with_the_fewest_tokens_to_the_end_of_the_queue() -> None:
    """Where the estimate was too low, the youngest answer starts over; all finish, none is lost."""
    limits = replace(SGLANG, num_gpu_blocks=120)
    result = serve([(0.0, 10, 90), (40.5, 2, 25), (44.5, 2, 25)], limits)
    assert result.preemptions.tolist() == [0, 0, 1]
    assert result.is_finished.all()


def test_sglang_finds_a_prompt_from_the_next_decision_on() -> None:
    """Two identical prompts admitted together both compute; a third one later finds all but its last token's unit."""
    limits = replace(SGLANG, enable_prefix_caching=True)
    prefix = PrefixBlocks(block_tokens=10, offsets=np.array([0, 4, 8, 12]), ids=np.array([1, 2, 3, 4] * 3))
    result = serve([(0.0, 45, 1), (0.0, 45, 1), (5.0, 45, 1)], limits, prefix=prefix)
    assert result.hit_tokens.tolist() == [0, 0, 40]


def test_sglang_refuses_a_chunk_that_is_not_whole_blocks() -> None:
    """A prompt would be cut to nothing and wait for ever; a server of SGLang does not start so."""
    with pytest.raises(UserError, match="max_num_batched_tokens is 100, must be a multiple of block_size = 16"):
        serve([(0.0, 40, 3)], replace(SGLANG, block_size=16))


def test_sglang_rejects_what_its_pool_can_never_admit() -> None:
    """Two tokens of the pool stay free beside prompt and answer; whoever asks for more is told, and nobody waits."""
    limits = replace(SGLANG, num_gpu_blocks=100)
    result = serve([(0.0, 60, 38), (0.0, 60, 39), (0.0, 60, 40), (0.0, 10, 5)], limits)
    assert result.is_finished.tolist() == [True, False, False, True]
    assert result.rejections() == {"rejected: longer than all KV memory": 2}


def test_a_prompt_beyond_the_largest_step_of_prompts_waits_for_the_next_one() -> None:
    """It is not cut to fill the chunk, as it is where a step may hold more prompts than a chunk."""
    rows = [(0.0, 40, 1), (0.0, 50, 1)]
    limits = replace(SGLANG, max_num_batched_tokens=80)
    assert [step[1] for step in steps(serve(rows, limits))] == [80, 10]
    assert [step[1] for step in steps(serve(rows, replace(limits, max_prefill_tokens=80)))] == [40, 50]
