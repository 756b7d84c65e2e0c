"""How many sequences a server starts with where each keeps a state of its own: no more than memory has room for."""

from collections.abc import Callable

from simulator.engine_profiles.start_up import StateRule
from simulator.memory.plan_memory import MemoryBudget

_WHY = "every running request needs room for the state of its linear-attention layers"


def fit_states(
    sized: Callable[[int], MemoryBudget],
    max_num_seqs: int,
    rule: StateRule | None,
    *,
    is_stated: bool,
    has_full_graphs: bool,
) -> tuple[MemoryBudget, int, tuple[str, ...]] | str:
    """Return memory, sequences and what was changed, or why it cannot start.

    ``sized`` gives the memory for a number of sequences. A paged engine refuses more sequences than it has blocks where
    decode steps are whole graphs: a default is lowered to what it takes, a stated number (``is_stated``) is refused as
    there. A pool lowers either.
    """
    memory = sized(max_num_seqs)
    if memory.reason is not None:
        return memory.reason
    slots = memory.state_slots
    is_limit = rule is not None and (rule.layout == "pool" or (rule.is_block_per_sequence and has_full_graphs))
    if rule is None or slots is None or not is_limit or max_num_seqs <= slots:
        return memory, max_num_seqs, ()
    if slots == 0 or (is_stated and rule.layout == "pages"):
        return f"max_num_seqs is {max_num_seqs}, must be at most {slots}: {_WHY}"
    return sized(slots), slots, (f"max_num_seqs is lowered from {max_num_seqs} to {slots}: {_WHY}",)
