"""A streaming interval holds tokens back from the client, and changes nothing of what the engine does."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.result import Chunks, EngineResult
from simulator.engine.run import run_replicas
from simulator.engine.stream import run_stream
from simulator.engine_profiles.answer_chunks import FirstChunk
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.launch import launch_lines
from simulator.results.metrics import request_latencies_s, summarise, summarise_stream
from simulator.steps.step_tables import StepTables, linear_tables
from simulator.workload.parse import parse_workload
from simulator.workload.workload import Workload
from tests.simulator.deployments import serving_of, start_of

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=16,
    max_num_batched_tokens=256,
    max_model_len=1024,
    block_size=16,
    num_gpu_blocks=90,
)


def tables(stages: int = 1, max_num_seqs: int = 16) -> StepTables:
    """Costs of a step that grow with everything."""
    return linear_tables(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=256,
        step_ps=4_000_000,
        token_ps=40_000,
        decode_kv_ps=600,
        host_step_ps=100_000,
        stages=stages,
    )


def crowd(n: int = 300) -> Workload:
    """Send more requests than the blocks allow, so that some are preempted."""
    rng = np.random.default_rng(3)
    return Workload(
        name="crowd",
        arrival_s=np.cumsum(rng.exponential(40e-6, n)),
        prompt_tokens=rng.integers(1, 200, n),
        output_tokens=rng.integers(0, 90, n),
    )


def in_chunks(limits: EngineLimits, interval: int, first: FirstChunk = "full") -> EngineLimits:
    """Give the server a streaming interval."""
    return replace(limits, stream_interval=interval, first_chunk=first)


def test_the_first_chunk_is_sent_with_its_last_token() -> None:
    """One request by hand: three tokens together come two decode steps after the first, the answer ends as before."""
    one = replace(crowd(1), prompt_tokens=np.array([100]), output_tokens=np.array([9]))
    plain = run_replicas(tables(), LIMITS, one)
    third = run_replicas(tables(), LIMITS, replace(one, output_tokens=np.array([3]))).finish_ps
    chunked = run_replicas(tables(), in_chunks(LIMITS, 3), one)
    assert chunked.first_token_ps.tolist() == third.tolist()
    assert chunked.finish_ps.tolist() == plain.finish_ps.tolist()


@pytest.mark.parametrize("policy", ["vllm-v1", "sglang", "vllm-v0"])
@pytest.mark.parametrize("interval", [2, 10, 70])
def test_leaps_send_first_chunks_when_single_steps_do(policy: str, interval: int) -> None:
    """Every first chunk comes at the same picosecond; no other time is touched, and none comes before its token."""
    limits = replace(LIMITS, policy=policy, async_scheduling=policy == "vllm-v1")
    if policy == "vllm-v0":
        limits = replace(limits, enable_chunked_prefill=False)
    plain = run_replicas(tables(), limits, crowd())
    leaps, steps = (run_replicas(tables(), in_chunks(limits, interval), crowd(), leap=leap) for leap in (True, False))
    assert plain.preemptions.sum() > 0
    assert leaps.first_token_ps.tolist() == steps.first_token_ps.tolist()
    assert leaps.finish_ps.tolist() == plain.finish_ps.tolist()
    is_short = plain.output_tokens <= interval
    assert (leaps.first_token_ps >= plain.first_token_ps).all()
    assert (leaps.first_token_ps == leaps.finish_ps)[plain.is_finished & is_short].all()
    assert (leaps.first_token_ps < leaps.finish_ps)[plain.is_finished & ~is_short].all()


@pytest.mark.parametrize("shape", ["pipeline", "ranks", "drafts"])
def test_every_kind_of_engine_holds_first_chunks_back(shape: str) -> None:
    """Pipelines, attention ranks and drafts send full first chunks later, and finish when they did."""
    limits, ranks = in_chunks(LIMITS, 10), 2 if shape == "ranks" else 1
    if shape == "drafts":
        limits = replace(limits, num_speculative_tokens=2, speculative_acceptance=0.6)
    costs = tables(stages=2 if shape == "pipeline" else 1, max_num_seqs=64)

    def serve(limits: EngineLimits) -> EngineResult:
        return run_replicas(costs, limits, crowd(), attention_dp=ranks)

    plain, chunked = serve(in_chunks(limits, 1)), serve(limits)
    assert chunked.finish_ps.tolist() == plain.finish_ps.tolist()
    is_long = plain.output_tokens > 10
    assert (chunked.first_token_ps > plain.first_token_ps)[is_long].all()
    assert (chunked.first_token_ps < chunked.finish_ps)[plain.output_tokens > 13].all()


@pytest.mark.parametrize("size", [7, 100])
def test_streamed_workloads_send_the_same_chunks(size: int) -> None:
    """A workload in parts has the first chunks and the gaps of the whole."""
    limits = in_chunks(LIMITS, 10)
    whole = run_replicas(tables(), limits, crowd())
    cuts = [slice(at, at + size) for at in range(0, len(crowd()), size)]
    pieces = [
        replace(
            crowd(),
            arrival_s=crowd().arrival_s[cut],
            prompt_tokens=crowd().prompt_tokens[cut],
            output_tokens=crowd().output_tokens[cut],
        )
        for cut in cuts
    ]
    parts = list(run_stream(tables(), limits, pieces))
    index = np.concatenate([part.index for part in parts if part.index is not None])
    firsts = np.concatenate([part.first_token_ps for part in parts])
    assert firsts[np.argsort(index)].tolist() == whole.first_token_ps.tolist()
    assert summarise_stream(parts).itl_s.mean == pytest.approx(summarise(whole).itl_s.mean)


@pytest.mark.parametrize("first", ["alone", "counted", "full"])
@pytest.mark.parametrize("interval", [1, 2, 5])
def test_chunks_are_counted_as_engines_cut_them(first: FirstChunk, interval: int) -> None:
    """Chunks end at the tokens each rule names, and at the end."""
    result = run_replicas(tables(), in_chunks(LIMITS, interval, first), crowd(2))
    lengths = np.arange(0, 23)
    for length, gaps in zip(lengths.tolist(), result.chunks.after_first(lengths).tolist(), strict=True):
        match first:
            case "alone":
                sent = {token for token in range(1, length + 1) if token % interval == 1 % interval}
            case "counted":
                sent = {token for token in range(1, length + 1) if token % interval == 0} | {1}
            case "full":
                sent = {token for token in range(1, length + 1) if token % interval == 0}
        assert gaps == max(0, len({token for token in sent if token <= length} | {length}) - 1)


def test_itl_is_the_gap_between_chunks_and_tpot_stays_that_of_tokens() -> None:
    """A client sees few long gaps; it divides what follows TTFT by the other tokens, whatever came with the first."""
    plain, chunked = (run_replicas(tables(), in_chunks(LIMITS, k, "alone"), crowd()) for k in (1, 10))
    assert chunked.chunks == Chunks(first=1, tokens=10, origin=1)
    before, after = summarise(plain), summarise(chunked)
    assert (after.ttft_s, after.tpot_s, after.e2e_s) == (before.ttft_s, before.tpot_s, before.e2e_s)
    spans = (chunked.finish_ps - chunked.first_token_ps).sum() / 1e12
    assert after.itl_s.mean == pytest.approx(spans / np.ceil(np.maximum(chunked.output_tokens - 1, 0) / 10).sum())
    full = run_replicas(tables(), in_chunks(LIMITS, 10), crowd())
    latency, i = request_latencies_s(full), int(np.argmax(full.output_tokens))
    expected = (latency["e2e_s"][i] - latency["ttft_s"][i]) / (full.output_tokens[i] - 1)
    assert latency["tpot_s"][i] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("engine", "stated"),
    [
        ("vllm-0.33", "--stream-interval 20"),
        ("sglang-0.5", "--stream-interval 20"),
        ("tensorrt-llm-1.0", '"stream_interval": 20'),
    ],
)
def test_the_command_states_the_interval(engine: str, stated: str) -> None:
    """Each engine gets it under its own name, and no word of it where tokens are sent at once."""
    few = parse_workload("chat-synthetic", limit=20)
    for interval in (None, 1, 20):
        serving = serving_of(engine=engine, stream_interval=interval)
        lines = "\n".join(launch_lines(serving, start_of(serving, "tp1", few)))
        assert (stated in lines) == (interval == 20)
        assert ("stream" in lines) == (interval == 20)


def test_an_engine_without_the_option_refuses_it() -> None:
    """A version that sends every token at once says so, and takes an interval of one."""
    few = parse_workload("chat-synthetic", limit=20)
    start_of(serving_of(engine="vllm-0.11", stream_interval=1), "tp1", few)
    with pytest.raises(UserError, match=r"stream_interval is 4: vllm-0\.11 sends every token at once"):
        start_of(serving_of(engine="vllm-0.11", stream_interval=4), "tp1", few)
