"""Whether the GPU was held back during a measurement, from the driver's nanosecond counters.

A counter's growth over the measurement is the time that limit was active, so a limit that came and went between two
looks is not missed. Heat and power-brake limits make a sample worthless (they depend on what ran before); the software
power cap is the true steady state of a large GEMM and is only labelled. Where the driver has no counters, the
instantaneous event reasons at both ends stand in, and the verdict says so.
"""

import time
from collections.abc import Callable
from dataclasses import field
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from profiler.instruments.nvml import Gpu, answered

_REJECTING: Final = frozenset({"sw_thermal", "hw_thermal", "power_brake", "hw_slowdown"})
_LABELLED: Final = frozenset({"sw_power_cap", "sync_boost", "board_limit", "reliability"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleMark:
    """The counters at one moment: seconds each limit was active so far, and the limits active right now."""

    taken_at_s: float
    active_s: dict[str, float | None]
    reasons: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """What held the GPU back over an interval: the fraction of the time per limit, and what that means for a row."""

    limited_frac: dict[str, float] = field(default_factory=dict)
    reasons: frozenset[str] = frozenset()
    unknown: str = ""

    @property
    def is_rejected(self) -> bool:
        """Heat or a power brake was active: the sample does not describe the GPU."""
        return bool(_REJECTING & (self.limited_frac.keys() | self.reasons))

    @property
    def status(self) -> str:
        """Value of a row's ``status`` column: ``throttled`` or ``ok``."""
        return "throttled" if self.is_rejected else "ok"

    @property
    def note(self) -> str:
        """Value for a row's ``note``: which limits, for how much of the time; empty when nothing held it back."""
        parts = [f"{name} {frac:.0%} of the time" for name, frac in sorted(self.limited_frac.items())]
        parts += sorted((self.reasons & (_REJECTING | _LABELLED)) - self.limited_frac.keys())
        if self.unknown:
            parts.append(self.unknown)
        return ", ".join(parts)


class ThrottleCounters:
    """Reads one GPU's counters before and after a measurement; with ``gpu=None`` every verdict is unknown.

    ``now_s`` is the time that the counters' growth is a share of.
    """

    __slots__ = ("_gpu", "_now_s")

    def __init__(self, gpu: Gpu | None, *, now_s: Callable[[], float] = time.perf_counter) -> None:
        self._gpu = gpu
        self._now_s = now_s

    def mark(self) -> ThrottleMark | None:
        """Read the counters now; None where the device answers neither query."""
        if self._gpu is None:
            return None
        active = answered(self._gpu.throttle_s) or {}
        reasons = answered(self._gpu.event_reasons)
        if reasons is None and not any(value is not None for value in active.values()):
            return None
        return ThrottleMark(taken_at_s=self._now_s(), active_s=active, reasons=reasons or frozenset())

    def since(self, start: ThrottleMark | None) -> Throttle:
        """Judge the interval from ``start`` to now."""
        end = self.mark()
        if start is None or end is None:
            return Throttle(unknown="" if self._gpu is None else "throttling unknown: the device reports no counters")
        elapsed_s = max(end.taken_at_s - start.taken_at_s, 1e-9)
        limited: dict[str, float] = {}
        counted = False
        for name, after in end.active_s.items():
            before = start.active_s.get(name)
            if before is None or after is None:
                continue
            counted = True
            if after > before:
                limited[name] = min((after - before) / elapsed_s, 1.0)
        return Throttle(
            limited_frac=limited,
            reasons=start.reasons | end.reasons,
            unknown="" if counted else "throttling seen at both ends only: the driver has no counters",
        )
