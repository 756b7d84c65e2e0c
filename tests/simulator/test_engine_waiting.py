"""Prompts are held back while sequences decode for as many steps, or until as many tokens, as the engine is told."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=8,
    max_num_batched_tokens=100,
    max_model_len=1000,
    block_size=10,
    num_gpu_blocks=1000,
    enable_chunked_prefill=False,
    async_scheduling=False,
    reserves_output=True,
)
# Every step takes one second, whatever is in it.
TABLES = linear_tables(max_num_seqs=8, max_num_batched_tokens=100, step_ps=10**12, token_ps=0)


def requests(rows: list[tuple[float, int, int]], ranks: list[int] | None = None) -> Workload:
    """Build requests of (arrival in s, prompt, output), each on a given rank."""
    arrival, prompt, output = zip(*rows, strict=True)
    return Workload(
        name="waiting",
        arrival_s=np.array(arrival, dtype=np.float64),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        replica=None if ranks is None else np.array(ranks),
    )


def first_tokens_s(limits: EngineLimits, workload: Workload, ranks: int = 1) -> list[float]:
    """Run the workload; returns when each request has its first token."""
    return (run_replicas(TABLES, limits, workload, attention_dp=ranks).first_token_ps / 1e12).tolist()


@pytest.mark.parametrize(("iters", "second"), [(0, 3.0), (1, 4.0), (4, 7.0)])
def test_a_prompt_waits_for_so_many_steps(iters: int, second: float) -> None:
    """A prompt that could join the step at 2 s joins the one ``iters`` later; the first one waits for nobody."""
    limits = replace(LIMITS, batch_wait_iters=iters, batch_wait_tokens=90)
    assert first_tokens_s(limits, requests([(0, 10, 20), (1.5, 10, 5)])) == [1.0, second]


def test_tokens_enough_end_the_wait() -> None:
    """One decode, 10 and 49 tokens of prompts are 60: both start as soon as the second is there."""
    limits = replace(LIMITS, batch_wait_iters=10, batch_wait_tokens=60)
    assert first_tokens_s(limits, requests([(0, 10, 20), (1.5, 10, 5), (3.5, 49, 5)])) == [1.0, 5.0, 5.0]
    assert first_tokens_s(limits, requests([(0, 10, 20), (1.5, 10, 5), (3.5, 48, 5)])) == [1.0, 13.0, 13.0]


def test_prompts_that_cannot_start_do_not_wait() -> None:
    """The wait of a prompt begins when a seat is free, not while it queues for one."""
    limits = replace(LIMITS, max_num_seqs=1, batch_wait_iters=5, batch_wait_tokens=90)
    assert first_tokens_s(limits, requests([(0, 10, 4), (1.5, 10, 5)])) == [1.0, 5.0]


def test_ranks_start_prompts_together() -> None:
    """A rank's prompt waits until the other has one too, or for the time-out since ranks last started some."""
    limits = replace(LIMITS, ranks_wait_iters=6)
    decoding = [(0.0, 10, 40), (0.0, 10, 40)]
    assert first_tokens_s(limits, requests([*decoding, (1.5, 10, 1), (3.5, 10, 1)], [0, 1, 0, 1]), 2)[2:] == [5.0, 5.0]
    alone = first_tokens_s(limits, requests([*decoding, (1.5, 10, 1)], [0, 1, 0]), 2)
    assert alone[2] == 7.0
    assert (
        first_tokens_s(replace(limits, ranks_wait_iters=0), requests([*decoding, (1.5, 10, 1)], [0, 1, 0]), 2)[2] == 3
    )


def test_ranks_wait_longer_once_all_have_prompts() -> None:
    """Two more steps for others to join, where the engine is told so."""
    limits = replace(LIMITS, ranks_wait_iters=50, ranks_batching_iters=2)
    rows = [(0.0, 10, 40), (0.0, 10, 40), (1.5, 10, 1), (1.5, 10, 1), (3.5, 10, 1)]
    assert first_tokens_s(limits, requests(rows, [0, 1, 0, 1, 0]), 2)[2:] == [5.0, 5.0, 5.0]


def test_no_rank_waits_while_another_decodes_nothing() -> None:
    """Where a rank is empty its first prompt starts at once, and so do those of the others."""
    limits = replace(LIMITS, ranks_wait_iters=50)
    assert first_tokens_s(limits, requests([(0, 10, 40), (1.5, 10, 1)], [0, 1]), 2) == [1.0, 3.0]


@pytest.mark.parametrize(
    ("change", "ranks", "word"),
    [
        ({"batch_wait_iters": 3, "enable_chunked_prefill": True}, 1, "wait for one another"),
        ({"ranks_wait_iters": 3, "enable_chunked_prefill": True}, 2, "wait for one another"),
        ({"batch_wait_iters": 3}, 2, "wait for company"),
        ({"batch_wait_iters": -1}, 1, "batch_wait_iters is -1"),
    ],
)  # fmt: skip
def test_what_is_not_modelled_is_refused(change: dict[str, object], ranks: int, word: str) -> None:
    """Waiting beside chunks, another policy or the rule of ranks is refused by name."""
    with pytest.raises(UserError, match=word):
        run_replicas(TABLES, replace(LIMITS, **change), requests([(0, 10, 2)], [0]), attention_dp=ranks)  # type: ignore[arg-type]
