"""Binary min-heap over two parallel rows: int64 keys and their payloads."""

from simulator.engine.jit import kernel
from simulator.engine.layout import I64


@kernel
def push(keys: I64, values: I64, size: int, key: int, value: int) -> int:
    """Add one entry; returns the new size. The rows must have room."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if keys[parent] <= key:
            break
        keys[at] = keys[parent]
        values[at] = values[parent]
        at = parent
    keys[at] = key
    values[at] = value
    return size + 1


@kernel
def pop(keys: I64, values: I64, size: int) -> int:
    """Drop the smallest entry; returns the new size."""
    size -= 1
    key = keys[size]
    value = values[size]
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
        values[at] = values[child]
        at = child
    keys[at] = key
    values[at] = value
    return size
