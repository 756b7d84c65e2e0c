"""What every engine step did, one row each, in the order of the scheduling decisions."""

import pyarrow as pa

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
    column = run.log
    return unit_table(
        {
            "replica": column["replica"],
            "decision_s": column["decision_ps"] * PS,
            "start_s": column["start_ps"] * PS,
            "end_s": column["end_ps"] * PS,
            "prefill_tokens": column["prefill_tokens"],
            "prefill_seqs": column["prefills"],
            "prefill_pairs": column["pairs"],
            "decode_seqs": column["decodes"],
            "decode_kv_tokens": column["decode_kv"],
            "running_seqs": column["running"],
            "waiting_seqs": column["waiting"],
            "free_blocks": column["free"],
        },
        kind="iterations",
    )
