"""Generated workloads: arrival processes, length draws, benchmark clients and sessions."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.workload.generators.arrivals import generate_arrivals, random_stream
from simulator.workload.generators.client import BenchmarkClient
from simulator.workload.generators.generate import (
    LENGTH_MIXES,
    LengthMix,
    Synthetic,
    length_mix,
)
from simulator.workload.generators.lengths import Fixed, Lognormal, Uniform
from simulator.workload.generators.sessions import Sessions, generate_sessions
from simulator.workload.parse import parse_workload
from simulator.workload.scale import scale_workload
from simulator.workload.workload import ClosedLoop


@pytest.mark.parametrize(("process", "cv"), [("poisson", 1.0), ("gamma", 0.5), ("gamma", 3.0), ("constant", 0.0)])
def test_arrival_process_has_its_rate_and_variability(process: str, cv: float) -> None:
    """The gaps' mean is 1/rate and their coefficient of variation the one asked for, within 4 standard errors."""
    count, rate = 20_000, 5.0
    arrival_s = generate_arrivals(count, process=process, rate_per_s=rate, cv=cv or 1.0, seed=3)
    gaps = np.diff(arrival_s, prepend=0.0)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1 / rate, rel=4 * cv / count**0.5 + 1e-12)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1, abs=1e-9)


def test_poisson_gaps_are_exponential() -> None:
    """A Poisson process' gaps exceed t with probability exp(-rate t)."""
    gaps = np.diff(generate_arrivals(50_000, rate_per_s=2.0, seed=1), prepend=0.0)
    for t in (0.1, 0.5, 1.5):
        assert (gaps > t).mean() == pytest.approx(np.exp(-2.0 * t), abs=4 * 0.5 / 50_000**0.5)


def test_burst_arrives_at_once() -> None:
    """A burst sends everything at 0."""
    assert generate_arrivals(3, process="burst").tolist() == [0.0, 0.0, 0.0]


def test_streams_of_one_seed_are_reproducible_and_independent() -> None:
    """The same name and seed draw the same; another name or seed draws something else."""
    draws = [random_stream(seed, name).random(4).tolist() for seed in (0, 1) for name in ("arrivals", "lengths")]
    assert random_stream(0, "arrivals").random(4).tolist() == draws[0]
    assert len({tuple(draw) for draw in draws}) == 4


def test_changing_the_arrivals_leaves_the_lengths_alone() -> None:
    """Each property has its own stream, so plans can be compared on the same requests under other arrivals."""
    mix = LENGTH_MIXES["chat"]
    poisson = Synthetic(count=50, lengths=mix, rate_per_s=1.0, seed=7).whole()
    bursty = Synthetic(count=50, lengths=mix, process="gamma", arrival_cv=4.0, rate_per_s=9.0, seed=7).whole()
    assert poisson.prompt_tokens.tolist() == bursty.prompt_tokens.tolist()
    assert poisson.output_tokens.tolist() == bursty.output_tokens.tolist()
    assert poisson.arrival_s.tolist() != bursty.arrival_s.tolist()


@given(mean=st.floats(50, 5_000), cv=st.floats(0.1, 1.0))
def test_lognormal_lengths_have_their_mean_and_cv(mean: float, cv: float) -> None:
    """Mean and cv of the drawn lengths are the ones asked for, not those of the logarithm."""
    drawn = Lognormal(mean=mean, cv=cv, maximum=10**9).draw(20_000, random_stream(0, "lengths"))
    assert drawn.mean() == pytest.approx(mean, rel=0.05)
    assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.15)


@given(low=st.integers(1, 100), width=st.integers(0, 50))
def test_uniform_lengths_reach_both_ends_and_no_further(low: int, width: int) -> None:
    """Uniform lengths cover [low, high], ends included."""
    drawn = Uniform(low=low, high=low + width).draw(2_000, random_stream(0, "lengths"))
    assert (drawn.min(), drawn.max()) == (low, low + width)


def test_resampling_keeps_pairs_together() -> None:
    """Empirical draws take prompt and output of the same request."""
    source = Synthetic(count=20, lengths=LENGTH_MIXES["code"], seed=1).whole()
    drawn = Synthetic(count=500, lengths=source, rate_per_s=3.0, seed=2).whole()
    known = set(zip(source.prompt_tokens.tolist(), source.output_tokens.tolist(), strict=True))
    assert set(zip(drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist(), strict=True)) == known


def test_benchmark_client_draws_what_the_real_client_draws() -> None:
    """`benchmark-serving` reproduces numpy's legacy global draw: prompts first, then outputs, seed 0, both ends in."""
    client = BenchmarkClient(prompt_tokens=1024, output_tokens=512, concurrency=4)
    state = np.random.get_state()
    np.random.seed(0)
    prompts = np.random.randint(int(1024 * 0.8), 1024 + 1, size=40)
    outputs = np.random.randint(int(512 * 0.8), 512 + 1, size=40)
    np.random.set_state(state)
    drawn = client.draw_lengths(40)
    assert (drawn[0].tolist(), drawn[1].tolist()) == (prompts.tolist(), outputs.tolist())


def test_vllm_bench_draws_symmetrically_and_counts_special_tokens() -> None:
    """`vllm-bench` draws in [1 - r, 1 + r] around the prompt without its special tokens, then adds them back."""
    client = BenchmarkClient(
        prompt_tokens=1001, output_tokens=100, concurrency=200, range_ratio=0.2, draw="vllm-bench", special_tokens=1
    )
    prompts, outputs = client.draw_lengths(20_000)
    assert (prompts.min(), prompts.max()) == (801, 1201)
    assert (outputs.min(), outputs.max()) == (80, 120)
    reference = np.random.default_rng(0)
    assert (prompts - 1).tolist() == reference.integers(800, 1201, size=20_000).tolist()
    assert outputs.tolist() == reference.integers(80, 121, size=20_000).tolist()


def test_benchmark_client_warms_up_with_copies_of_its_first_request() -> None:
    """2 x concurrency copies of request 0 go ahead as a phase of their own, then 10 prompts per slot."""
    workload = BenchmarkClient(prompt_tokens=128, output_tokens=64, concurrency=3).workload()
    assert workload.client == ClosedLoop(concurrency=3, warmup=6)
    assert len(workload) == 6 + 30
    assert set(workload.prompt_tokens[:7].tolist()) == {int(workload.prompt_tokens[6])}
    assert (workload.arrival_s == 0).all()


def sessions(**overrides: object) -> Sessions:
    values: dict[str, object] = {
        "count": 30,
        "question": Uniform(low=5, high=60),
        "answer": Uniform(low=1, high=40),
        "system_prompt_tokens": 40,
        "seed": 2,
        **overrides,
    }
    return Sessions(**values)


def test_follow_up_prompt_is_the_whole_history() -> None:
    """A turn's prompt holds its parent's prompt and answer and a new question on top."""
    workload = generate_sessions(sessions())
    assert workload.after is not None
    turns = np.flatnonzero(workload.after >= 0)
    parents = workload.after[turns]
    assert len(turns) > 30
    grown = workload.prompt_tokens[turns] - workload.prompt_tokens[parents] - workload.output_tokens[parents]
    assert ((grown >= 5) & (grown <= 60)).all()
    assert (parents == turns - 1).all()


@given(seed=st.integers(0, 50), block=st.sampled_from([1, 16, 64]), system=st.integers(0, 130))
def test_equal_block_ids_mean_equal_prefixes(seed: int, block: int, system: int) -> None:
    """Blocks ahead of an equal id are equal; sessions share exactly the system prompt's full blocks."""
    workload = generate_sessions(sessions(count=6, seed=seed, block_tokens=block, system_prompt_tokens=system))
    prefix = workload.prefix
    assert prefix is not None
    assert workload.after is not None
    session = np.cumsum(workload.after < 0) - 1
    rows = [prefix.ids[a:b].tolist() for a, b in zip(prefix.offsets, prefix.offsets[1:], strict=False)]
    assert [len(row) for row in rows] == (-(-workload.prompt_tokens // block)).tolist()
    ahead: dict[int, list[int]] = {}
    owner: dict[int, int] = {}
    for index, row in enumerate(rows):
        for position, block_id in enumerate(row):
            assert ahead.setdefault(block_id, row[:position]) == row[:position]
            if position >= system // block:
                assert owner.setdefault(block_id, int(session[index])) == session[index]
    for index in np.flatnonzero(workload.after >= 0):
        parent = int(workload.after[index])
        known = int(workload.prompt_tokens[parent]) // block
        assert rows[index][:known] == rows[parent][:known]


def test_session_ends_before_its_prompt_outgrows_the_limit_and_says_so() -> None:
    """No prompt beyond the limit is generated after the first turn, and the turns left out are counted."""
    workload = generate_sessions(sessions(mean_turns=20.0, max_prompt_tokens=300))
    assert workload.prompt_tokens.max() <= 300
    assert any("turns left out" in note for note in workload.notes)


@given(factor=st.floats(0.1, 10), lengths=st.floats(0.1, 10))
def test_scaling_keeps_order_and_proportion(factor: float, lengths: float) -> None:
    """Rates and lengths scale by their factor, never below one token."""
    workload = Synthetic(count=30, lengths=LENGTH_MIXES["chat"], seed=0).whole()
    scaled = scale_workload(workload, factor, lengths)
    np.testing.assert_allclose(scaled.arrival_s * factor, workload.arrival_s)
    assert (np.abs(scaled.prompt_tokens - workload.prompt_tokens * lengths) <= 1).all()
    assert (scaled.prompt_tokens >= 1).all()


@pytest.mark.parametrize("name", LENGTH_MIXES)
def test_every_mix_draws_lengths_within_its_limits(name: str) -> None:
    """Named mixes give usable lengths whose mean is near the stated one."""
    mix = length_mix(name)
    for distribution in (mix.prompt, mix.output):
        assert isinstance(distribution, Lognormal)
        drawn = distribution.draw(20_000, random_stream(1, name))
        assert 1 <= drawn.min() <= drawn.max() <= distribution.maximum
        assert drawn.mean() == pytest.approx(distribution.mean, rel=0.08)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: generate_arrivals(0), "number of requests is 0"),
        (lambda: generate_arrivals(1, rate_per_s=0.0), "rate is 0 requests/s"),
        (lambda: generate_arrivals(1, rate_per_s=float("inf")), "rate is inf"),
        (lambda: generate_arrivals(1, process="gamma", cv=0.0), "cv of the gaps is 0"),
        (lambda: generate_arrivals(1, process="weekly"), "arrival process 'weekly' is not known"),
        (lambda: random_stream(-1, "x"), "seed is -1"),
        (lambda: Fixed(tokens=0), "fixed length is 0"),
        (lambda: Uniform(low=5, high=4), "uniform lengths from 5 to 4"),
        (lambda: Lognormal(mean=0.5, cv=1, maximum=9), "mean length is 0.5"),
        (lambda: Lognormal(mean=5, cv=0, maximum=9), "cv of the lengths is 0"),
        (lambda: Lognormal(mean=50, cv=1, maximum=9), "longest length 9 is below the mean"),
        (lambda: length_mix("poetry"), "length mix 'poetry' is not known"),
        (lambda: sessions(mean_turns=0.5), "mean number of turns is 0.5"),
        (lambda: sessions(mean_think_s=-1.0), "mean think time is -1"),
        (lambda: sessions(system_prompt_tokens=-1), "system prompt is -1"),
        (lambda: sessions(block_tokens=0), "block size is 0"),
        (lambda: BenchmarkClient(prompt_tokens=0, output_tokens=1, concurrency=1), "prompt_tokens is 0"),
        (lambda: BenchmarkClient(prompt_tokens=1, output_tokens=1, concurrency=1, seed=-1), "seed is -1"),
        (
            lambda: BenchmarkClient(prompt_tokens=9, output_tokens=9, concurrency=1, range_ratio=1.5),
            "range_ratio is 1.5",
        ),
        (
            lambda: BenchmarkClient(
                prompt_tokens=9, output_tokens=9, concurrency=1, range_ratio=1.0, draw="vllm-bench"
            ),
            r"must be in \[0, 1\)",
        ),
        (
            lambda: BenchmarkClient(prompt_tokens=1, output_tokens=9, concurrency=99, range_ratio=0.0).workload(),
            "draws a length of 0 tokens",
        ),
    ],
)
def test_impossible_settings_are_refused(build: object, message: str) -> None:
    """A setting out of range names its value and its limit."""
    with pytest.raises(UserError, match=message):
        build()


def test_mix_may_combine_any_distributions() -> None:
    """A mix of one's own needs no registration."""
    workload = Synthetic(count=5, lengths=LengthMix(prompt=Fixed(tokens=7), output=Uniform(low=1, high=3))).whole()
    assert set(workload.prompt_tokens.tolist()) == {7}


def test_groups_share_what_they_share_and_come_back() -> None:
    """Prompts of a group have their whole common blocks in common, repeated prompts all their blocks, others none."""
    text = "groups:groups=3,prompts=4,system=40,isl=30-90,osl=7,n=36,block=16,rate=2,seed=5"
    workload = parse_workload(text)
    assert workload.prefix is not None
    bounds = workload.prefix.offsets
    blocks = [tuple(workload.prefix.ids[a:b].tolist()) for a, b in itertools.pairwise(bounds.tolist())]
    assert [len(own) for own in blocks] == (workload.prompt_tokens // 16).tolist()
    assert blocks[:12] == blocks[12:24] == blocks[24:]
    assert len(set(blocks)) == 12
    assert sorted(collections.Counter(own[:2] for own in blocks[:12]).values()) == [4, 4, 4]
    rest = [block for own in blocks[:12] for block in own[2:]]
    assert len(set(rest)) == len(rest)
    assert (workload.output_tokens == 7).all()
    assert parse_workload(text).arrival_s.tolist() == workload.arrival_s.tolist()
