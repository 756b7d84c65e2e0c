"""The compiled engine against the same functions run as Python: every byte of the state, for every policy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.engine.arena import state_arena
from simulator.engine.bounds import CLOCK_END, DONE, NONE, PAUSED
from simulator.engine.cost_arrays import cost_arrays
from simulator.engine.costs import Costs
from simulator.engine.entries import KERNELS
from simulator.engine.native.abi import ENTRIES, Entry
from simulator.engine.native.compiler import compile_engine
from simulator.engine.native.load import Functions, in_memory
from simulator.engine.policies import Engine, address, compiled, entry_for, interpreted
from simulator.engine.rules import rules_of
from simulator.engine.state import State
from simulator.engine.state_arrays import StateArrays
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.errors import EngineDefectError
from simulator.steps.step_tables import EncoderTables, linear_tables
from simulator.workload.items import EncoderItems
from simulator.workload.workload import ClosedLoop, PrefixBlocks, Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=6,
    max_num_batched_tokens=64,
    max_model_len=400,
    block_size=16,
    num_gpu_blocks=40,
)
V0 = replace(LIMITS, policy="vllm-v0", max_num_batched_tokens=400)
SGLANG = replace(LIMITS, policy="sglang", block_size=1, num_gpu_blocks=640)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One engine under one load."""

    limits: EngineLimits = LIMITS
    stages: int = 1
    ranks: int = 1
    dp: int = 1
    window_tokens: int = 0
    is_closed: bool = False
    has_prefixes: bool = False
    has_images: bool = False
    is_decode_pool: bool = False
    horizon_ps: int = CLOCK_END  # a streamed part runs up to it


CASES = {
    "v1": Case(),
    "v1, two replicas, closed loop": Case(dp=2, is_closed=True),
    "v1 with a prefix cache": Case(limits=replace(LIMITS, enable_prefix_caching=True), has_prefixes=True),
    "v1 with a sliding window": Case(window_tokens=48),
    "v1, synchronous": Case(limits=replace(LIMITS, async_scheduling=False)),
    "v0, whole prompts": Case(limits=replace(V0, enable_chunked_prefill=False)),
    "v0, chunked": Case(limits=replace(V0, enable_chunked_prefill=True)),
    "orca": Case(limits=replace(V0, policy="orca")),
    "sglang": Case(limits=replace(SGLANG, enable_prefix_caching=False)),
    "sglang with a radix cache": Case(limits=replace(SGLANG, enable_prefix_caching=True), has_prefixes=True),
    "pipeline": Case(stages=3),
    "sglang on stages": Case(
        stages=3, limits=replace(SGLANG, enable_prefix_caching=True, async_scheduling=False), has_prefixes=True
    ),
    "sglang on stages with images": Case(
        stages=3,
        limits=replace(SGLANG, enable_prefix_caching=True, encodes_by_request=True, async_scheduling=False),
        has_images=True,
    ),
    "drafts": Case(limits=replace(LIMITS, num_speculative_tokens=3, speculative_acceptance=0.6)),
    "ranks that step together": Case(ranks=2, dp=2),
    "ranks of sglang": Case(ranks=2, dp=2, limits=replace(SGLANG, enable_prefix_caching=False)),
    "v1 with images": Case(limits=replace(LIMITS, encoder_budget=60), has_images=True),
    "v1 with whole images": Case(limits=replace(LIMITS, encoder_budget=60, keeps_items_whole=True), has_images=True),
    "sglang with images": Case(
        limits=replace(SGLANG, enable_prefix_caching=True, encodes_by_request=True), has_images=True
    ),
    "pipeline with images": Case(stages=3, limits=replace(LIMITS, encoder_budget=60), has_images=True),
    "drafts with images": Case(
        limits=replace(LIMITS, encoder_budget=60, num_speculative_tokens=3, speculative_acceptance=0.6),
        has_images=True,
    ),
    "ranks with images": Case(ranks=2, dp=2, limits=replace(LIMITS, encoder_budget=60), has_images=True),
    "ranks with drafts": Case(
        ranks=2, dp=2, limits=replace(LIMITS, num_speculative_tokens=3, speculative_acceptance=0.6)
    ),
    "ranks of stages": Case(stages=3, ranks=2, dp=2),
    "ranks of stages that need one another": Case(
        stages=3, ranks=2, limits=replace(LIMITS, reserves_output=True, pipeline_ranks="all")
    ),
    "ranks of stages with images": Case(stages=3, ranks=2, limits=replace(LIMITS, encoder_budget=60), has_images=True),
    "a decode pool": Case(is_decode_pool=True),
    "a streamed part": Case(horizon_ps=20_000_000),
}


def requests(case: Case, n: int = 60) -> Workload:
    """Draw requests, some of which outgrow the blocks."""
    rng = np.random.default_rng(3)
    prompts = rng.integers(1, 250, n)
    more: dict[str, Any] = {}
    if case.is_closed:
        more["client"] = ClosedLoop(concurrency=9, warmup=5)
    if case.has_prefixes:
        counts = prompts // 16
        ids = [np.arange(count) + 1000 * (i % 4) for i, count in enumerate(counts)]
        more["prefix"] = PrefixBlocks(
            block_tokens=16, offsets=np.concatenate([[0], np.cumsum(counts)]), ids=np.concatenate(ids)
        )
    if case.has_images:
        more["items"] = images_of(prompts)
    return Workload(
        name="both ways",
        arrival_s=np.zeros(n) if case.is_closed else np.cumsum(rng.exponential(5e-7, n)),
        prompt_tokens=prompts,
        output_tokens=rng.integers(0, 100, n),
        **more,
    )


def images_of(prompts: NDArray[np.int64]) -> EncoderItems:
    """Cut the head of each prompt into images of up to 45 tokens, or of none where it is shorter."""
    counts = np.minimum(prompts // 45, 3)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    length = 20 + 5 * (np.arange(len(number)) % 6)
    return EncoderItems(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        start=45 * number,
        end=45 * number + length,
        embeds=length,
        tokens=4 * length,
        pairs=16 * length**2,
    )


def served(case: Case, engine_of: Callable[[Entry], Engine]) -> tuple[list[int], StateArrays]:
    """Run a case in slices of a few turns: what each returned, and the state at the end."""
    limits = case.limits
    tables = linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        step_ps=20_000,
        token_ps=311,
        decode_kv_ps=3,
        pair_ps=1,
        kv_read_ps=2,
        host_step_ps=7_000,
        windowed_kv_ps=2 if case.window_tokens else 0,
        window_tokens=case.window_tokens,
        stages=case.stages,
        send_ps=900 if case.stages > 1 else 0,
        drafts=limits.num_speculative_tokens,
    )
    if case.has_images:
        knots = np.array([0, 100, 1 << 20])
        encoder = EncoderTables(
            token_knots=knots, token_ps=knots * 70, pair_knots=knots, pair_ps=knots // 3, launch_ps=11_000
        )
        tables = replace(tables, encoder=encoder)
    workload = requests(case)
    rules = rules_of(tables, limits, workload, router="least_outstanding", leap=True, ranks=case.ranks)
    state = state_arena(rules, workload, dp=case.dp * case.ranks, log_rows=50)
    state.header.horizon_ps = case.horizon_ps
    if case.is_decode_pool:
        state.requests["remote"] = np.maximum(workload.prompt_tokens - 1, 0)
    engine, costs = engine_of(entry_for(tables, limits, case.ranks)), cost_arrays(tables, limits)
    codes = [PAUSED]
    while codes[-1] == PAUSED:
        state.header.budget = 37
        codes.append(engine(state.compiled, costs))
    return codes, state


@pytest.fixture(scope="module")
def content() -> bytes:
    """Compile the engine here and now."""
    return compile_engine()


@pytest.fixture(scope="module")
def functions(content: bytes) -> Functions:
    """Load it without a linker."""
    return in_memory(content)


@pytest.mark.parametrize("name", CASES)
def test_compiled_code_does_what_python_does(name: str, functions: Functions) -> None:
    """The library that commands load, an object loaded by llvmlite, and Python leave the same bytes in the state."""

    def from_memory(entry: Entry) -> Engine:
        return lambda state, costs: functions[entry](address(state), address(costs))

    codes, state = served(CASES[name], compiled)
    assert codes[-1] == DONE
    assert state.requests["finish_ps"].max() > 0
    for other in (from_memory, interpreted):
        other_codes, other_state = served(CASES[name], other)
        assert other_codes == codes
        assert np.array_equal(other_state.cells, state.cells)


def test_entries_have_the_names_and_the_order_they_are_called_by() -> None:
    """Callers know an entry by its name and by its place, without importing a kernel."""
    assert tuple(KERNELS) == ENTRIES
    assert all(kernel.__name__ == name for name, kernel in KERNELS.items())


def test_every_entry_is_held_against_python() -> None:
    """The cases above leave no entry out but that of two pools (``test_engine_two_pools``)."""
    reached = set()

    def noted(entry: Entry) -> Engine:
        reached.add(entry)
        return compiled(entry)

    for case in CASES.values():
        served(case, noted)
    assert reached | {"run_two_pools"} == set(ENTRIES)


def test_an_object_refers_to_nothing_outside(content: bytes) -> None:
    """No symbol of Python, of numba's run time or of the C library is left in the object, so it links to none."""
    for name in (b"Py_", b"PyErr", b"NRT_", b"numba_", b"memcpy", b"sqrt", b"malloc"):
        assert name not in content


def test_a_division_by_zero_is_a_defect_not_a_crash() -> None:
    """The only error that compiled code can meet comes back as a status; blocks of no tokens make one."""

    def broken(entry: Entry) -> Engine:
        def run(state: State, costs: Costs) -> int:
            state["block_size"], state["block_bits"] = 0, NONE  # type: ignore[index]
            return compiled(entry)(state, costs)

        return run

    with pytest.raises(EngineDefectError, match="divided by zero"):
        served(CASES["v1"], broken)
