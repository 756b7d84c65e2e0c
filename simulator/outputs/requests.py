"""What became of every request, one row each.

Rows are in the order of the workload; a streamed run writes them part by part, as requests are done with.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from cluster_specs.errors import UserError
from simulator.engine.result import STATUS_NAMES, EngineResult
from simulator.outputs.tables import PS, as_frame, unit_table
from simulator.results.metrics import request_latencies_s


def request_table(run: EngineResult) -> pa.Table:
    """Return one row per request; times that never happened are null.

    ``request`` is the index in the workload; ``is_measured`` is false for a benchmark client's warm-up. ``replica`` is
    null where a request was rejected before a replica took it.
    """
    latency = request_latencies_s(run)
    names = np.array([STATUS_NAMES.get(code, "unsent") for code in range(int(run.status.max(initial=0)) + 1)])
    return unit_table(
        {
            "request": np.arange(len(run)) if run.index is None else run.index,
            "arrival_s": np.where(run.arrival_ps >= 0, run.arrival_ps * PS, np.nan),
            "prompt_tokens": run.prompt_tokens,
            "output_tokens": run.output_tokens,
            "ttft_s": latency["ttft_s"],
            "tpot_s": latency["tpot_s"],
            "e2e_s": latency["e2e_s"],
            "queue_s": latency["queue_s"],
            "preemptions": run.preemptions,
            "prefix_hit_tokens": run.hit_tokens,
            "replica": pa.array(run.replica, mask=run.replica < 0),
            "status": names[run.status],
            "is_measured": run.measured,
        },
        kind="requests",
    )


def request_frame(run: EngineResult | None, plan: str) -> Any:
    """Return the same rows as a pandas DataFrame; raises ``UserError`` where a result kept no requests."""
    if run is None:
        raise UserError(
            f"plan {plan}: its requests were not kept",
            hint="simulate the plan alone and in one piece, or read the file of --requests-out",
        )
    return as_frame(request_table(run))
