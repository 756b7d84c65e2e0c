"""Rows in and out of queues that link requests by their neighbours."""

from simulator.engine.bounds import NONE
from simulator.engine.kernel import kernel
from simulator.engine.lists import Queue
from simulator.engine.request import Request
from simulator.engine.state import State
from simulator.engine.tables import request


@kernel
def join(state: State, queue: Queue, req: Request) -> None:
    """Put a request at the end of a queue."""
    req.previous = queue.tail
    req.next = NONE
    if queue.tail == NONE:
        queue.head = req.number
    else:
        request(state, queue.tail).next = req.number
    queue.tail = req.number
    queue.count += 1


@kernel
def leave(state: State, queue: Queue, req: Request) -> None:
    """Take a request out of the queue it is in."""
    if req.previous == NONE:
        queue.head = req.next
    else:
        request(state, req.previous).next = req.next
    if req.next == NONE:
        queue.tail = req.previous
    else:
        request(state, req.next).previous = req.previous
    queue.count -= 1
