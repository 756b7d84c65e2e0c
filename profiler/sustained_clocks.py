"""The SM clock that seconds of large products leave, by number format: what a power limit makes of the boost clock.

A point's samples are bursts of some 50 ms, over before the limit bites. A serving step of prompts is not, so that a run
states what its products are left with.
"""

import json
from collections.abc import Iterable
from typing import Final

from profiler.backend import Unsupported
from profiler.bench import Bench
from profiler.planning.grid import product_shape
from profiler.point import Point
from profiler.run import Run

_SECONDS: Final = 3.0
_SPARE_S: Final = 2.0  # operands, compiling, warm-up
_SIDE: Final = 8192


def sustained_clocks(run: Run, bench: Bench, points: Iterable[Point]) -> str | None:
    """Return MHz by the number format of every kind of product among ``points``, as JSON; None where none is told.

    Formats for which the run's time no longer suffices are left out, and said.
    """
    if bench.launch != "graph" or not run.outcome.measured or run.stop.name is not None:
        return None
    found: dict[str, float] = {}
    left_out: list[str] = []
    for dtype in dict.fromkeys(point.op.dtype for point in points if point.family == "gemm"):
        if run.left_s is not None and run.left_s < _SECONDS + _SPARE_S:
            left_out.append(dtype)
            continue
        try:
            clock_mhz = bench.sustained_mhz(product_shape(dtype, _SIDE, _SIDE, _SIDE), _SECONDS)
        except (Unsupported, RuntimeError, MemoryError) as error:
            run.outcome.notes.append(f"no sustained clock of {dtype}: {str(error).splitlines()[0]}")
            continue
        if clock_mhz is not None:
            found[dtype] = clock_mhz
    if left_out:
        run.outcome.notes.append(f"no time for sustained clocks of {', '.join(left_out)}")
    return json.dumps(found) if found else None
