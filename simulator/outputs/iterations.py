"""What every engine step did, one row each, in the order of the scheduling decisions."""

import pyarrow as pa

from simulator.engine import layout
from simulator.engine.result import EngineResult
from simulator.outputs.tables import PS, unit_table


def iteration_table(run: EngineResult) -> pa.Table:
    """Return one row per step of a run with ``log``; a leap over equal decode steps is one row per step as well.

    ``decode_seqs`` and ``prefill_seqs`` are the sequences in the step, ``decode_kv_tokens`` the KV tokens its decodes
    read, ``prefill_pairs`` the causal (query, key) pairs of its chunks. ``running_seqs``, ``waiting_seqs`` and
    ``free_blocks`` are the replica's after the decision; inside a leap, ``waiting_seqs`` is the queue at its end.
    Raises ``ValueError`` for a run without a log.
    """
    if run.log is None:
        raise ValueError("the run kept no iteration log: replay it with log=True")
    column = run.log.T
    return unit_table(
        {
            "replica": column[layout.LOG_REPLICA],
            "decision_s": column[layout.LOG_DECISION] * PS,
            "start_s": column[layout.LOG_START] * PS,
            "end_s": column[layout.LOG_END] * PS,
            "prefill_tokens": column[layout.LOG_PREFILL_TOKENS],
            "prefill_seqs": column[layout.LOG_PREFILLS],
            "prefill_pairs": column[layout.LOG_PAIRS],
            "decode_seqs": column[layout.LOG_DECODES],
            "decode_kv_tokens": column[layout.LOG_DECODE_KV],
            "running_seqs": column[layout.LOG_RUNNING],
            "waiting_seqs": column[layout.LOG_WAITING],
            "free_blocks": column[layout.LOG_FREE],
        },
        kind="iterations",
    )
