"""One rank's bench: turns a point into a row, whatever happens to it.

Every outcome is a row: ``ok``, ``oom``, ``unsupported`` (the kernel refuses the shape or format), ``throttled``,
``timeout`` (a call takes longer than a point may) or ``error``; a row that carries no time says why in ``note``.
"""

import gc
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from profiler.backend import KernelBackend, Prepared, Unsupported
from profiler.captures import CaptureRecord
from profiler.device_health import is_usable
from profiler.instruments.energy import EnergyMeter
from profiler.instruments.throttle import ThrottleCounters
from profiler.point import OpShape, Point
from profiler.timing import (
    CpuStopwatch,
    CudaStopwatch,
    Measurement,
    PointTimeoutError,
    Stopwatch,
    TimingPolicy,
    take_samples,
)

if TYPE_CHECKING:
    import torch

    from profiler.kernels.buffers import Buffers
    from profiler.kernels.custom_backend import CustomBackend
    from profiler.kernels.step_backend import StepBackend

Row = dict[str, Any]
NOT_CAPTURED: Final = "not graph-captured"
_SUSTAINED_RATIO: Final = 1.1
_OUT_OF_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")
# Torch raises plain RuntimeError for most refusals of a kernel; these words tell a refusal from a defect.
_REFUSALS: Final = (
    "not implemented",
    "only supports",
    "not supported",
    "unsupported",
    "must be",
    "expected",
    "invalid",
    "should be",
)


class Bench:
    """Measures compute points on one device; the instruments that the device lacks simply answer nothing.

    ``captures`` knows which kinds of kernels CUDA graphs could record, those of earlier processes included.
    """

    def __init__(
        self,
        device: "torch.device",
        backends: Sequence[KernelBackend],
        buffers: "Buffers",
        *,
        policy: TimingPolicy,
        throttle: ThrottleCounters,
        energy: EnergyMeter | None = None,
        sm_clock_mhz: Callable[[], float | None] = lambda: None,
        temperature_c: Callable[[], float | None] = lambda: None,
        is_first_alone: bool = False,
    ) -> None:
        self.device = device
        self._backends = backends
        self._buffers = buffers
        self._policy = policy
        self._throttle = throttle
        self._energy = energy
        self._sm_clock_mhz = sm_clock_mhz
        self._temperature_c = temperature_c
        self._is_first_alone = is_first_alone
        self.captures = CaptureRecord()
        self.is_usable = True

    @property
    def launch(self) -> str:
        """Launch mode points of this device are planned with."""
        return "graph" if self.device.type == "cuda" else "eager"

    def place(self, op: OpShape, *, device_name: str, cache: str, clock_mhz: float | None = None) -> list[Point]:
        """Return the points of ``op``: the first kernel of every backend that has one (empty where none has).

        With ``is_first_alone`` the first backend that has one is the only one.
        """
        kernels = [list(backend.kernels_for(op))[:1] for backend in self._backends]
        if self._is_first_alone:
            kernels = [labels for labels in kernels if labels][:1]
        return [
            Point(op=op, device=device_name, backend=label, launch=self.launch, cache=cache, clock_mhz=clock_mhz)
            for labels in kernels
            for label in labels
        ]

    def measure(self, point: Point, *, with_energy: bool = False) -> list[Row]:
        """Measure one point; never raises for what the point itself does wrong.

        One row, or two where a kernel planned as a CUDA graph could only run eagerly: the point's own, and the one
        that was measured. ``is_usable`` is False afterwards where the point has spoilt the device for this process.
        """
        row: Row = {**point.columns, "origin": "measured"}
        result = self._outcome(point, with_energy=with_energy)
        if result.get("launch", point.launch) == point.launch:
            if result.get("launch") == "graph":
                self.captures.succeeded(point)
            return [row | result]
        self.captures.failed(point)
        is_sound = not self.captures.wants_fresh_process(point) and is_usable(self.device)
        self.is_usable = self.is_usable and is_sound
        refused = {"status": "unsupported", "note": f"{NOT_CAPTURED}, measured eagerly: {result['note']}"}
        return [row | refused, row | result]

    def _outcome(self, point: Point, *, with_energy: bool) -> Row:
        try:
            return self._measured(point, with_energy=with_energy)
        except Unsupported as error:
            return {"status": "unsupported", "note": str(error)}
        except PointTimeoutError as error:
            return {"status": "timeout", "note": str(error)}
        except Exception as error:  # kernels, compilers and torch each have their own; the row says which
            row = verdict_of(error)
        # Outside the handler: the error's traceback holds the operands.
        self._free()
        self.is_usable = is_usable(self.device)
        return row

    def _free(self) -> None:
        """Give memory back, so that the next point starts from an empty device."""
        self._buffers.release()
        gc.collect()

    def _measured(self, point: Point, *, with_energy: bool) -> Row:
        prepared = self.prepare(point)
        stopwatch = self.stopwatch(prepared, may_capture=not self.captures.is_given_up(point))
        measured = take_samples(stopwatch, self._policy.rule(), self._throttle)
        row = columns_of(measured)
        if not isinstance(stopwatch, CudaStopwatch):
            return row
        row["sm_clock_mhz"] = stopwatch.while_busy(self._sm_clock_mhz)
        row["temperature_c"] = self._temperature_c()
        row["note"] = _joined(row["note"], stopwatch.refusal)
        if with_energy and self._energy is not None:
            energy = self._energy.measure(
                stopwatch.run, synchronize=stopwatch.synchronize, calls_per_launch=stopwatch.calls
            )
            row |= {"energy_j": energy.energy_j, "power_w": energy.power_w}
            row["temperature_c"] = energy.temperature_c or row["temperature_c"]
            row["note"] = _joined(row["note"], energy.note, _sustained_note(energy.call_s, row["latency_s"]))
        return row

    def sustained_mhz(self, op: OpShape, seconds: float) -> float | None:
        """Return the SM clock after so many seconds of an op; None where the device does not tell it."""
        points = self.place(op, device_name="", cache="hot")
        stopwatch = self.stopwatch(self.prepare(points[0])) if points else None
        if not isinstance(stopwatch, CudaStopwatch):
            return None
        started_s = time.monotonic()
        while time.monotonic() - started_s < seconds:
            stopwatch.run()
            stopwatch.synchronize()
        return stopwatch.while_busy(self._sm_clock_mhz)

    @property
    def step_backend(self) -> "StepBackend":
        """The backend that builds whole steps of the others' kernels."""
        from profiler.kernels.step_backend import StepBackend

        return next(backend for backend in self._backends if isinstance(backend, StepBackend))

    @property
    def custom_backend(self) -> "CustomBackend | None":
        """The backend of a person's own kernels, None where no extension was given."""
        from profiler.kernels.custom_backend import CustomBackend

        return next((backend for backend in self._backends if isinstance(backend, CustomBackend)), None)

    def prepare(self, point: Point) -> Prepared:
        """Return the point's kernel with its operands; raises ``Unsupported``."""
        self._buffers.begin(is_cold=point.cache == "cold")
        for backend in self._backends:
            if point.backend in backend.kernels_for(point.op):
                return backend.prepare(point.op, point.backend, self._buffers)
        raise Unsupported(f"no backend here has kernel {point.backend} for {point.op}")

    def stopwatch(self, prepared: Prepared, *, may_capture: bool = True) -> Stopwatch:
        """Return the way calls are timed on this device, warmed up."""
        if self.device.type == "cuda":
            return CudaStopwatch(prepared, self._policy, self.device, may_capture=may_capture)
        return CpuStopwatch(prepared, self._policy)


def columns_of(measured: Measurement) -> Row:
    """Return the result columns of a row."""
    parts = [f"stopped by {measured.stopped}" if measured.stopped != "settled" else ""]
    if measured.dropped:
        parts.append(f"{measured.dropped} throttled samples dropped")
    if measured.preempted:
        parts.append(f"{measured.preempted} samples dropped, another process ran in them")
    parts.append(measured.throttle_note)
    return {
        "latency_s": measured.quantile_s(0.5),
        "latency_p10_s": measured.quantile_s(0.1),
        "latency_p90_s": measured.quantile_s(0.9),
        "samples": len(measured.samples_s),
        "launch": measured.launch,
        "status": "throttled" if measured.is_throttled else "ok",
        "note": _joined(*parts),
    }


def verdict_of(error: Exception) -> Row:
    """Tell a kernel's refusal of a shape from a failure."""
    text = _first_line(error)
    lowered = text.lower()
    if isinstance(error, MemoryError) or any(words in lowered for words in _OUT_OF_MEMORY):
        return {"status": "oom", "note": text}
    is_refusal = any(word in lowered for word in _REFUSALS)
    if "cuda error" in lowered:  # "invalid argument" of a launch is a defect, cuBLAS refusing a format is not
        is_refusal = "not_supported" in lowered
    status = "unsupported" if is_refusal else "error"
    return {"status": status, "note": f"{type(error).__name__}: {text}"}


def _sustained_note(call_s: float | None, latency_s: float) -> str:
    """Say where calls of the energy windows, seconds on end, took longer than those of the timed batches."""
    if call_s is None or call_s <= _SUSTAINED_RATIO * latency_s:
        return ""
    return f"sustained for seconds a call takes {call_s:.3g} s, {call_s / latency_s:.2f} times latency_s"


def _joined(*parts: str | None) -> str | None:
    return "; ".join(part for part in parts if part) or None


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
