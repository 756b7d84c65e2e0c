"""What two pools tell each other: events that one puts into the other's heap, and how far each may run without them.

Either pool is a state of its own, and both run by turns (``entries.run_two_pools``): whichever comes next, up to where
the other could have something to say. Who tells the other something draws its own horizon in to that time, so that no
pool ever passes a message. Where both have something at the same time the prefill pool goes first.
"""

from typing import Final

from simulator.engine.bounds import CLOCK_END
from simulator.engine.kernel import kernel
from simulator.engine.ordered_heap import push_in_order
from simulator.engine.state import State
from simulator.engine.tables import peer

# Events of the prefill pool and of the decode pool; an entry is twice the number of the request and one of these.
START: Final = 0  # the decode pool has taken the blocks of a prompt, which may be computed now
SENT: Final = 1  # its KV has left
SEND: Final = 0  # a prompt whose blocks have been taken is computed
ARRIVED: Final = 1  # its KV is there


@kernel
def tell_prefill(state: State, time: int, number: int, event: int) -> None:
    """Let the prefill pool know at ``time``; the decode pool runs no further until it has."""
    other = peer(state, 0)
    push_in_order(other, other.transfers, min(time, CLOCK_END), 2 * number + event)
    state.horizon_ps = min(state.horizon_ps, time)


@kernel
def tell_decode(state: State, time: int, number: int, event: int) -> None:
    """Let the decode pool know at ``time``; the prefill pool does no more than what it does at that time."""
    other = peer(state, 0)
    push_in_order(other, other.transfers, min(time, CLOCK_END), 2 * number + event)
    state.horizon_ps = min(state.horizon_ps, time + 1)


@kernel
def offer_to_decode(state: State, time: int, number: int) -> None:
    """Let a request arrive in the decode pool at ``time``."""
    other = peer(state, 0)
    push_in_order(other, other.pending, min(time, CLOCK_END), number)
    state.horizon_ps = min(state.horizon_ps, time + 1)
