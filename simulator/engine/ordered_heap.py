"""A binary min-heap whose equal keys leave in the order of their payloads, whenever each of them came."""

from simulator.engine.kernel import kernel
from simulator.engine.lists import Heap
from simulator.engine.state import State
from simulator.engine.tables import list_at


@kernel
def push_in_order(state: State, heap: Heap, key: int, payload: int) -> None:
    """Add one entry. The heap must have room."""
    keys = list_at(state, heap.place)
    payloads = list_at(state, heap.place + heap.capacity)
    at = heap.size
    while at > 0:
        parent = (at - 1) >> 1
        if keys[parent] < key or (keys[parent] == key and payloads[parent] <= payload):
            break
        keys[at] = keys[parent]
        payloads[at] = payloads[parent]
        at = parent
    keys[at] = key
    payloads[at] = payload
    heap.size += 1


@kernel
def pop_in_order(state: State, heap: Heap) -> int:
    """Drop the smallest entry and return its payload."""
    keys = list_at(state, heap.place)
    payloads = list_at(state, heap.place + heap.capacity)
    first = payloads[0]
    size = heap.size - 1
    key = keys[size]
    payload = payloads[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            keys[other] < keys[child] or (keys[other] == keys[child] and payloads[other] < payloads[child])
        ):
            child = other
        if keys[child] > key or (keys[child] == key and payloads[child] >= payload):
            break
        keys[at] = keys[child]
        payloads[at] = payloads[child]
        at = child
    keys[at] = key
    payloads[at] = payload
    heap.size = size
    return first
