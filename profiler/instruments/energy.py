"""Joules per call and mean watts of a kernel, from the GPU's energy counter.

The counter counts millijoules but moves only every 20 to 100 ms, so a window runs from one move to another and lasts
at least two seconds; the first second, in which power and clocks still rise, is skipped. Mean power is energy over time
between the two moves; energy per call is that power times the steady time per call of the same run. Windows follow
each other without a pause; when their powers disagree, more are taken, and a spread that stays is a refusal, not a
number. Sources: the Zeus project's notes on counter updates; "Part-time power measurements" (SC 2024).
"""

import statistics
import time
from collections.abc import Callable
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from profiler.instruments.nvml import Gpu, NvmlError, answered

_BATCH_S: Final = 0.005  # how finely a move of the counter is seen: 0.25 % of a window
_BATCH_READINGS: Final = 4  # a batch outlasts this many readings, or the GPU would idle while the driver answers
_MIN_UPDATES: Final = 10  # fewer moves than this in a window leave an edge worth more than a tenth of it
_STUCK_S: Final = 1.0  # ten times the period of the slowest counter


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy of one kernel: columns ``energy_j`` (per call) and ``power_w`` (mean), or None with a ``note`` saying why.

    ``call_s`` is the steady time per call during the windows, ``sampled_power_w`` the mean of the instantaneous power
    readings beside them (a cross-check of the counter), ``spread_frac`` the relative range of the last windows.
    """

    energy_j: float | None = None
    power_w: float | None = None
    call_s: float | None = None
    sampled_power_w: float | None = None
    temperature_c: float | None = None
    windows: int = 0
    spread_frac: float | None = None
    note: str = ""


class EnergyMeter:
    """Measures on one GPU; ``refusal`` says why it cannot (no GPU, MIG, vGPU, no counter, no permission).

    ``now_s`` is the time that energy is divided by, ``sleep`` lets it pass while the GPU idles.
    """

    __slots__ = (
        "_gpu",
        "_max_spread_frac",
        "_max_windows",
        "_min_windows",
        "_now_s",
        "_rise_s",
        "_sleep",
        "_window_s",
        "refusal",
    )

    def __init__(
        self,
        gpu: Gpu | None,
        *,
        window_s: float = 2.0,
        rise_s: float = 1.0,
        min_windows: int = 3,
        max_windows: int = 6,
        max_spread_frac: float = 0.03,
        now_s: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gpu = gpu
        self._window_s = window_s
        self._rise_s = rise_s
        self._min_windows = min_windows
        self._max_windows = max_windows
        self._max_spread_frac = max_spread_frac
        self._now_s = now_s
        self._sleep = sleep
        self.refusal = _why_not(gpu)

    def idle_power_w(self) -> float | None:
        """Mean power over one window without load; None when refused. Call it before and after a run."""
        if self.refusal or self._gpu is None:
            return None
        run = _Run(self._gpu, lambda: None, lambda: self._sleep(_BATCH_S), self._now_s)
        try:
            run.find_edge()
            return run.window_power_w(self._window_s)
        except _CounterError:
            return None

    def measure(
        self, launch: Callable[[], None], *, synchronize: Callable[[], None], calls_per_launch: int = 1
    ) -> Energy:
        """Repeat ``launch`` for the rise and at least ``min_windows`` windows (about 7 s) and return energy per call.

        ``launch`` enqueues ``calls_per_launch`` calls of the kernel (one graph replay, say) and may return before they
        are done; ``synchronize`` waits for all of them. Never raises for an instrument's refusal; whatever the kernel
        raises passes through.
        """
        if self.refusal or self._gpu is None:
            return Energy(note=self.refusal)
        run = _Run(self._gpu, launch, synchronize, self._now_s)
        try:
            run.rise(self._rise_s)
            run.find_edge()
            run.start_counting()
            powers = [run.window_power_w(self._window_s) for _ in range(self._min_windows)]
            while _spread(powers[-self._min_windows :]) > self._max_spread_frac and len(powers) < self._max_windows:
                powers.append(run.window_power_w(self._window_s))
            temperature = answered(self._gpu.temperature_c)
        except _CounterError as error:
            return Energy(note=str(error))
        kept = powers[-self._min_windows :]
        spread = _spread(kept)
        call_s = run.launch_s() / calls_per_launch
        if spread > self._max_spread_frac:
            note = (
                f"energy rejected: power of the last {len(kept)} of {len(powers)} windows differs by "
                f"{spread:.1%}, limit {self._max_spread_frac:.1%}"
            )
            return Energy(call_s=call_s, windows=len(powers), spread_frac=spread, temperature_c=temperature, note=note)
        power = statistics.fmean(kept)
        return Energy(
            energy_j=power * call_s,
            power_w=power,
            call_s=call_s,
            sampled_power_w=run.sampled_power_w(),
            temperature_c=temperature,
            windows=len(powers),
            spread_frac=spread,
        )


class _CounterError(Exception):
    """The energy counter stopped answering or moving in the middle of a measurement."""


class _Run:
    """One uninterrupted load with the counter watched beside it, so that the GPU never idles for a query."""

    __slots__ = (
        "_batch",
        "_edge",
        "_first",
        "_gpu",
        "_last_j",
        "_launch",
        "_launches",
        "_now_s",
        "_sampled",
        "_synchronize",
    )

    def __init__(
        self, gpu: Gpu, launch: Callable[[], None], synchronize: Callable[[], None], now_s: Callable[[], float]
    ) -> None:
        self._gpu = gpu
        self._launch = launch
        self._synchronize = synchronize
        self._now_s = now_s
        self._batch = 1
        self._launches = 0
        self._first = (0.0, 0)  # time and launches at the start of counting
        self._last_j = -1.0
        self._edge = (0.0, 0.0)  # time and energy of the last move of the counter that a window ended on
        self._sampled: list[float] = []

    def rise(self, duration_s: float) -> None:
        """Load the GPU until power has settled, and size batches to the poll interval meanwhile."""
        self._launch()
        self._synchronize()
        batch_s = max(_BATCH_S, _BATCH_READINGS * self._reading_s())
        start = self._now_s()
        while self._now_s() - start < duration_s:
            before = self._now_s()
            for _ in range(self._batch):
                self._launch()
            self._synchronize()
            took = self._now_s() - before
            self._batch = max(1, min(int(self._batch * batch_s / max(took, 1e-9)), self._batch * 4))

    def _reading_s(self) -> float:
        """Seconds the driver takes to answer for energy."""
        before = self._now_s()
        self._read_j()
        return self._now_s() - before

    def find_edge(self) -> None:
        """Wait for the counter to move once."""
        self._last_j = self._step()[1]
        self._edge = self._wait_for_move()

    def start_counting(self) -> None:
        """Count launches from here on."""
        self._sampled.clear()
        self._first = (self._now_s(), self._launches)

    def window_power_w(self, window_s: float) -> float:
        """Mean power from the last window's end to the first move of the counter at least ``window_s`` later."""
        start_s, start_j = self._edge
        updates = 0
        while True:
            now_s, now_j = self._wait_for_move()
            updates += 1
            if now_s - start_s >= window_s and updates >= _MIN_UPDATES:
                self._edge = (now_s, now_j)
                return (now_j - start_j) / (now_s - start_s)

    def launch_s(self) -> float:
        """Steady seconds per launch since `start_counting`."""
        start_s, start_launches = self._first
        return (self._now_s() - start_s) / (self._launches - start_launches)

    def sampled_power_w(self) -> float | None:
        """Mean of the instantaneous power readings, one per move of the counter."""
        return statistics.fmean(self._sampled) if self._sampled else None

    def _wait_for_move(self) -> tuple[float, float]:
        started_s = self._now_s()
        while True:
            now_s, now_j = self._step()
            if now_j != self._last_j:
                if now_j < self._last_j:
                    raise _CounterError("energy rejected: the counter went backwards (driver reloaded?)")
                self._last_j = now_j
                power = answered(self._gpu.power_w)
                if power is not None:
                    self._sampled.append(power)
                return now_s, now_j
            if now_s - started_s > _STUCK_S:
                raise _CounterError(f"energy rejected: the counter did not move for {_STUCK_S:g} s")

    def _step(self) -> tuple[float, float]:
        """Run one batch and read the counter while it runs; returns the time of the reading and the joules."""
        for _ in range(self._batch):
            self._launch()
        joules = self._read_j()
        now_s = self._now_s()
        self._synchronize()
        self._launches += self._batch
        return now_s, joules

    def _read_j(self) -> float:
        try:
            return self._gpu.energy_j()
        except NvmlError as error:
            raise _CounterError(f"energy rejected: {error}") from error


def _why_not(gpu: Gpu | None) -> str:
    """Say why this GPU's counter cannot be charged to this process; empty when it can."""
    if gpu is None:
        return "energy not measured: there is no GPU with an energy counter"
    try:
        if gpu.is_mig():
            return "energy not measured: on MIG the counter is the whole board's, not this instance's"
        gpu.energy_j()
    except NvmlError as error:
        mode = answered(gpu.virtualization)
        where = f" on a {mode} device" if mode not in {None, "none", "passthrough"} else ""
        return f"energy not measured{where}: {error}"
    return ""


def _spread(powers: list[float]) -> float:
    mean = statistics.fmean(powers)
    return (max(powers) - min(powers)) / mean if mean > 0 else float("inf")
