"""How one kernel is timed: warm up for a time, then take samples until the stopping rule says enough.

A sample is the mean time per call of a batch long enough that the clock's own resolution and the launch do not matter.
On a GPU the batch is one CUDA graph of calls over rotating buffers, timed by device events; the device spins for a
moment before each batch, so that the batch is queued before its first event fires. On a CPU it is a plain loop, timed
by the monotonic clock. Samples taken while the device was throttled, or while another process had taken the core away
(the kernel counts involuntary switches), are dropped and counted.
"""

import math
import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from cluster_specs.lazy_dataclass import dataclass
from profiler.backend import Prepared
from profiler.instruments.throttle import ThrottleCounters
from profiler.stopping import MedianConfidence, StoppingRule

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")
_BATCH_CPU_S: Final = 100e-6  # 1000 times the resolution of the monotonic clock
_BATCH_CUDA_S: Final = 2e-3  # events resolve about 0.5 us
_MAX_BATCH_CALLS: Final = 1024
# About 0.1 ms at 2 GHz: longer than the host needs to queue two events and a graph.
LEAD_IN_CYCLES: Final = 200_000
_BUSY_BATCHES: Final = 3
_SAMPLES_PER_THROTTLE_CHECK: Final = 8
_STRETCH_S: Final = 0.5
_BACK_OFF_S: Final = 0.05
_MAX_BACK_OFFS: Final = 6
_MAX_PREEMPTED_SHARE: Final = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingPolicy:
    """How long to warm up and when to stop: at ``relative`` half-width of the median's interval, or at ``max_s``."""

    warmup_s: float = 0.03
    relative: float = 0.01
    confidence: float = 0.95
    min_samples: int = 10
    min_s: float = 0.02
    max_s: float = 0.3
    point_timeout_s: float = 60.0

    @property
    def longest_s(self) -> float:
        """Seconds of a point of short calls that is sampled to its cap."""
        return self.warmup_s + self.max_s

    @property
    def hang_s(self) -> float:
        """Seconds after which a point that does not even reach its own time limits has hung."""
        return 3 * self.point_timeout_s

    def rule(self) -> StoppingRule:
        """Return a fresh stopping rule."""
        return MedianConfidence(
            relative=self.relative,
            confidence=self.confidence,
            min_samples=self.min_samples,
            min_s=self.min_s,
            max_s=self.max_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Samples of one point in seconds per call, and how they were taken."""

    samples_s: tuple[float, ...]
    launch: str
    stopped: str
    dropped: int = 0
    preempted: int = 0
    throttle_note: str = ""
    is_throttled: bool = False

    def quantile_s(self, fraction: float) -> float:
        """Quantile by linear interpolation between the sorted samples."""
        ordered = sorted(self.samples_s)
        position = fraction * (len(ordered) - 1)
        low = math.floor(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


class Stopwatch(Protocol):
    """Runs a prepared kernel in batches and tells the time per call."""

    @property
    def launch(self) -> str:
        """How calls reach the device: ``graph`` or ``eager``."""

    @property
    def was_preempted(self) -> bool:
        """Whether another process ran in the middle of the last sample."""

    def sample_s(self) -> float:
        """Run one batch; returns seconds per call."""


class PointTimeoutError(Exception):
    """One call, or the warm-up of a point, took longer than a point may."""


class CpuStopwatch:
    """Times a loop of calls on the monotonic clock."""

    launch = "eager"

    def __init__(self, prepared: Prepared, policy: TimingPolicy) -> None:
        self._launch = prepared.launch
        self.was_preempted = False
        self._next = 0
        self._calls = 1
        once_s = self._warm_up(policy)
        self._calls = min(max(1, math.ceil(_BATCH_CPU_S / max(once_s, 1e-9))), _MAX_BATCH_CALLS)

    def _warm_up(self, policy: TimingPolicy) -> float:
        """Run for ``warmup_s``, at least twice unless one call fills the time cap; returns the fastest call seen."""
        started = time.perf_counter()
        fastest, runs = math.inf, 0
        while runs == 0 or (runs < 2 and fastest < policy.max_s) or time.perf_counter() - started < policy.warmup_s:
            fastest = min(fastest, self.sample_s())
            runs += 1
            if time.perf_counter() - started > policy.point_timeout_s:
                raise PointTimeoutError(f"{runs} warm-up calls took more than {policy.point_timeout_s:g} s")
        return fastest

    def sample_s(self) -> float:
        """Run one batch; returns seconds per call."""
        launch, first, calls = self._launch, self._next, self._calls
        self._next += calls
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        started = time.perf_counter()
        for i in range(first, first + calls):
            launch(i)
        elapsed_s = time.perf_counter() - started
        self.was_preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw > switches
        return elapsed_s / calls


class CudaStopwatch:
    """Times batches with device events: one CUDA graph replayed, or eager launches where capture is impossible.

    ``refusal`` says why there is no graph; empty where there is one.
    """

    was_preempted = False  # the device's own clock runs on while the host is away

    def __init__(
        self, prepared: Prepared, policy: TimingPolicy, device: "torch.device", *, may_capture: bool = True
    ) -> None:
        import torch

        self._cuda = torch.cuda
        self._device = device
        self._prepared = prepared
        self._start: Any = _timing_event()
        self._end: Any = _timing_event()
        once_s = self._warm_up(policy)
        # One batch walks through every buffer set at least once, so that it starts as cold as it ends.
        wanted = max(math.ceil(_BATCH_CUDA_S / max(once_s, 1e-7)), prepared.copies)
        # ... but no longer than leaves time for the least number of samples.
        affordable = max(1, math.floor(policy.max_s / (policy.min_samples + 2) / max(once_s, 1e-7)))
        self.calls = min(wanted, affordable, _MAX_BATCH_CALLS)
        self.refusal = "" if may_capture else "kernels of its kind could not be captured before"
        self._graph = self._capture() if may_capture else None
        self.launch = "graph" if self._graph is not None else "eager"
        if self._graph is not None:
            self.sample_s()  # the first replay uploads the graph

    def _warm_up(self, policy: TimingPolicy) -> float:
        """Run for ``warmup_s`` on a side stream (capture asks for one) and return seconds per call."""
        stream: Any = self._cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's own
        stream.wait_stream(self._cuda.current_stream(self._device))
        with self._cuda.stream(stream):
            started, runs = time.perf_counter(), 0
            while runs < 3 or time.perf_counter() - started < policy.warmup_s:
                self._prepared.launch(runs)
                stream.synchronize()
                runs += 1
                if time.perf_counter() - started > policy.point_timeout_s:
                    raise PointTimeoutError(f"{runs} warm-up calls took more than {policy.point_timeout_s:g} s")
            # Back to back, so that the estimate holds no host round trip.
            self._start.record(stream)
            for i in range(10):
                self._prepared.launch(i)
            self._end.record(stream)
            stream.synchronize()
        self._cuda.current_stream(self._device).wait_stream(stream)
        return float(self._start.elapsed_time(self._end)) * 1e-3 / 10

    def _capture(self) -> "torch.cuda.CUDAGraph | None":
        graph = self._cuda.CUDAGraph()
        try:
            with self._cuda.graph(graph):
                for i in range(self.calls):
                    self._prepared.launch(i)
        except RuntimeError as error:
            # The end of an invalidated capture raises too: what invalidated it stands behind that.
            cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            # Out of memory is a verdict on the point, a kernel that synchronises or allocates on the host is not.
            if isinstance(cause, self._cuda.OutOfMemoryError):
                raise cause from None
            self._cuda.synchronize(self._device)
            self.refusal = str(cause).splitlines()[0]
            return None
        return graph

    def run(self) -> None:
        """Enqueue one batch of ``calls`` calls."""
        if self._graph is not None:
            self._graph.replay()
            return
        for i in range(self.calls):
            self._prepared.launch(i)

    def synchronize(self) -> None:
        """Wait for everything enqueued."""
        self._cuda.synchronize(self._device)

    def while_busy(self, read: Callable[[], _T]) -> _T:
        """Return what ``read`` returns while batches run: a clock read on an idle device says nothing of the kernel."""
        for _ in range(_BUSY_BATCHES):
            self.run()
        value = read()
        self.synchronize()
        return value

    def sample_s(self) -> float:
        """Run one batch; returns seconds per call."""
        self._cuda._sleep(LEAD_IN_CYCLES)  # type: ignore[no-untyped-call]  # noqa: SLF001 - torch's only spin kernel
        self._start.record()
        self.run()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) * 1e-3 / self.calls


def _timing_event() -> object:
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own


def take_samples(stopwatch: Stopwatch, rule: StoppingRule, throttle: ThrottleCounters) -> Measurement:
    """Sample until ``rule`` stops.

    A stretch of samples in which heat or a power brake held the device back is dropped and the device left to cool;
    after ``_MAX_BACK_OFFS`` such stretches the samples are kept and the measurement is marked throttled. Preempted
    samples are dropped while fewer than ``_MAX_PREEMPTED_SHARE`` of all are: a call longer than the scheduler's slice
    never runs undisturbed on a busy machine.
    """
    kept: list[float] = []
    dropped, preempted, back_offs, note = 0, 0, 0, ""
    is_throttled = False
    while True:
        mark = throttle.mark()
        stretch: list[tuple[float, float]] = []
        spent_s = 0.0
        while len(stretch) < _SAMPLES_PER_THROTTLE_CHECK and spent_s < _STRETCH_S:
            started = time.perf_counter()
            sample = stopwatch.sample_s()
            sample_spent_s = time.perf_counter() - started
            spent_s += sample_spent_s
            if stopwatch.was_preempted and preempted < _MAX_PREEMPTED_SHARE * (len(kept) + preempted + 4):
                preempted += 1
                continue
            stretch.append((sample, sample_spent_s))
        verdict = throttle.since(mark)
        if verdict.limited_frac:
            note = verdict.note
        if verdict.is_rejected and not is_throttled:
            dropped += len(stretch)
            back_offs += 1
            is_throttled = back_offs >= _MAX_BACK_OFFS
            time.sleep(_BACK_OFF_S * 1.5**back_offs)
            continue
        for sample, sample_spent_s in stretch:
            kept.append(sample)
            rule.add(sample, sample_spent_s)
            if rule.reason is not None:
                return Measurement(
                    samples_s=tuple(kept),
                    launch=stopwatch.launch,
                    stopped=rule.reason,
                    dropped=dropped,
                    preempted=preempted,
                    throttle_note=note,
                    is_throttled=is_throttled,
                )
