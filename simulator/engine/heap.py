"""Binary min-heap in a list of integers: ``capacity`` keys, then as many payloads."""

from simulator.engine.kernel import kernel
from simulator.engine.lists import Heap
from simulator.engine.state import State
from simulator.engine.tables import list_at


@kernel
def first_key(state: State, heap: Heap) -> int:
    """Smallest key of a heap that is not empty."""
    return list_at(state, heap.place)[0]


@kernel
def first_payload(state: State, heap: Heap) -> int:
    """Payload of the smallest key of a heap that is not empty."""
    return list_at(state, heap.place)[heap.capacity]


@kernel
def push(state: State, heap: Heap, key: int, payload: int) -> None:
    """Add one entry. The heap must have room."""
    keys = list_at(state, heap.place)
    payloads = list_at(state, heap.place + heap.capacity)
    at = heap.size
    while at > 0:
        parent = (at - 1) >> 1
        if keys[parent] <= key:
            break
        keys[at] = keys[parent]
        payloads[at] = payloads[parent]
        at = parent
    keys[at] = key
    payloads[at] = payload
    heap.size += 1


@kernel
def pop(state: State, heap: Heap) -> None:
    """Drop the smallest entry."""
    keys = list_at(state, heap.place)
    payloads = list_at(state, heap.place + heap.capacity)
    size = heap.size - 1
    key = keys[size]
    payload = payloads[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[at] = keys[child]
        payloads[at] = payloads[child]
        at = child
    keys[at] = key
    payloads[at] = payload
    heap.size = size
