"""The engine of each policy: which entry serves it, called on a state and step tables."""

from collections.abc import Callable
from typing import Any, cast

from simulator.engine.costs import Costs
from simulator.engine.native.abi import FAILED, Entry
from simulator.engine.native.load import ENGINE_CODE
from simulator.engine.records import Record
from simulator.engine.state import State
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.errors import EngineDefectError
from simulator.steps.step_tables import StepTables

Engine = Callable[[State, Costs], int]


def engine_for(tables: StepTables, limits: EngineLimits, attention_dp: int = 1) -> Engine:
    """Compiled engine of a policy and a layout; returns what ``bounds`` says."""
    return compiled(entry_for(tables, limits, attention_dp))


def entry_for(tables: StepTables, limits: EngineLimits, attention_dp: int = 1) -> Entry:
    """Pick the entry of a policy and a layout."""
    if attention_dp > 1:
        return "run_lockstep_pipeline" if tables.stages > 1 else "run_lockstep"
    if limits.num_speculative_tokens:
        return "run_v1_with_drafts"
    if tables.stages > 1:
        return "run_sglang_pipeline" if limits.policy == "sglang" else "run_v1_pipeline"
    if limits.policy == "sglang":
        return "run_sglang"
    # With chunked prefill V0 walks like V1, and so does Orca.
    return "run_v0" if limits.policy == "vllm-v0" and not limits.enable_chunked_prefill else "run_v1"


def compiled(entry: Entry) -> Engine:
    """Engine that runs ``entry`` as compiled; a row is passed as its address."""
    function = ENGINE_CODE.functions()[entry]

    def run_compiled(state: State, costs: Costs) -> int:
        code = function(address(state), address(costs))
        if code == FAILED:
            raise EngineDefectError("the engine divided by zero")
        return code

    return run_compiled


def interpreted(entry: Entry) -> Engine:
    """Engine that runs ``entry`` as Python, a thousand times slower: to step through it, to check the other."""
    from simulator.engine.entries import KERNELS

    kernel = KERNELS[entry]

    def run(state: State, costs: Costs) -> int:
        rows = (record.structure.from_address(address(row)) for record, row in ((State, state), (Costs, costs)))
        return kernel(*cast(tuple[State, Costs], tuple(rows)))

    return run


def address(row: Record) -> int:
    """Where the row of a table of one begins in memory; asking the array interface describes all of its fields."""
    return int(cast(Any, row).ctypes.data)
