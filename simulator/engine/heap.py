"""Binary min-heap in a stretch of the state: ``capacity`` keys, then as many payloads."""

from simulator.engine.jit import kernel
from simulator.engine.layout import Cells


@kernel
def push(state: Cells, heap: int, capacity: int, size: int, key: int, payload: int) -> int:
    """Add one entry; returns the new size. The heap must have room."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if state[heap + parent] <= key:
            break
        state[heap + at] = state[heap + parent]
        state[heap + capacity + at] = state[heap + capacity + parent]
        at = parent
    state[heap + at] = key
    state[heap + capacity + at] = payload
    return size + 1


@kernel
def pop(state: Cells, heap: int, capacity: int, size: int) -> int:
    """Drop the smallest entry; returns the new size."""
    size -= 1
    key = state[heap + size]
    payload = state[heap + capacity + size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and state[heap + child + 1] < state[heap + child]:
            child += 1
        if state[heap + child] >= key:
            break
        state[heap + at] = state[heap + child]
        state[heap + capacity + at] = state[heap + capacity + child]
        at = child
    state[heap + at] = key
    state[heap + capacity + at] = payload
    return size
