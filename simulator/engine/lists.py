"""Lists of rows, and of integers, as the rows that own them hold them."""

from simulator.engine.records import Record


class Heap(Record):
    """A binary min-heap in a list of integers: ``capacity`` keys, then as many payloads."""

    place: int  # of the list
    capacity: int
    size: int


class Queue(Record):
    """A list of rows that know their neighbours: any of them can leave."""

    head: int
    tail: int
    count: int


class Chain(Record):
    """A list of rows that know the next one."""

    head: int
    tail: int
