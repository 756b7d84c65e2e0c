"""One row of the iteration log."""

from simulator.engine.records import Record


class LogRow(Record):
    """One step of one replica, before its tokens count."""

    replica: int
    decision_ps: int
    start_ps: int
    end_ps: int
    prefill_tokens: int
    decodes: int
    prefills: int
    decode_kv: int
    pairs: int
    running: int
    free: int
    waiting: int  # when the row was written: inside a leap, the queue at its end
