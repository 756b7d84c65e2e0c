"""Whether this machine's timings can be trusted: known quantities measured against the device's stated peaks.

A large copy must come near the stated memory bandwidth (it reads and writes each byte once), a large GEMM near the
stated dense peak at the clock it ran at. Above the peak the timer is wrong; far below, something else uses or limits
the device. Each quantity is measured twice, at the start and at the end: samples must be tight and both must agree.
HBM copies reach 88-93 % of the datasheet and large bf16 GEMMs 70-85 %; the floors lie about ten points lower. A CPU's
spec is one generic core, so only its order of magnitude is held against it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cluster_specs.lazy_dataclass import dataclass
from profiler.backend import Prepared
from profiler.instruments.clocks import sm_clock_under_load
from profiler.instruments.nvml import Gpu, NvmlError
from profiler.instruments.throttle import ThrottleCounters
from profiler.timing import CpuStopwatch, CudaStopwatch, Measurement, TimingPolicy, take_samples

if TYPE_CHECKING:
    import torch

    from cluster_specs.device import DeviceSpec, Dtype

_CEILING: Final = 1.05  # clocks read back to a few per cent; beyond that a sample did not hold all its work
_GPU_COPY_FLOOR: Final = 0.80
_GPU_GEMM_FLOOR: Final = 0.60
_CPU_FLOOR, _CPU_CEILING = 0.1, 10.0
_GPU_SPREAD, _CPU_SPREAD = 0.05, 0.50  # (p90 - p10) / median
_GPU_DRIFT, _CPU_DRIFT = 0.03, 0.30
_COPY_BYTES: Final = {"cuda": 1 << 30, "cpu": 128 << 20}
_GEMM_SIZE: Final = {"cuda": 8192, "cpu": 1024}
_GEMM_DTYPE: Final[dict[str, "Dtype"]] = {"cuda": "bf16", "cpu": "fp32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One known quantity: the rate seen at the start, the rate it is held against, and the range of the ratio."""

    name: str
    rate: float
    unit: str
    reference: float
    floor: float
    ceiling: float
    spread_frac: float
    max_spread_frac: float
    drift_frac: float
    max_drift_frac: float
    note: str = ""

    @property
    def ratio(self) -> float:
        """Rate over reference."""
        return self.rate / self.reference

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with it, each with the value and its limit; empty when it can be trusted."""
        found = []
        if self.ratio > self.ceiling:
            found.append(
                f"{self.ratio:.2f} of the stated peak, limit {self.ceiling:.2f}: the timer or the spec is wrong"
            )
        if self.ratio < self.floor:
            found.append(f"{self.ratio:.2f} of the stated peak, at least {self.floor:.2f} expected")
        if self.spread_frac > self.max_spread_frac:
            found.append(f"samples spread by {self.spread_frac:.1%}, limit {self.max_spread_frac:.0%}")
        if abs(self.drift_frac) > self.max_drift_frac:
            found.append(f"moved by {self.drift_frac:+.1%} from start to end, limit {self.max_drift_frac:.0%}")
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """The verdict on a machine: the quantities, and whether measurements taken here can be trusted."""

    device: str
    quantities: tuple[Quantity, ...]
    throttle_note: str = ""

    @property
    def is_trusted(self) -> bool:
        """No quantity has a problem."""
        return not any(quantity.problems for quantity in self.quantities)

    def lines(self) -> list[str]:
        """Report for a person, the verdict last."""
        text = []
        for quantity in self.quantities:
            rate = f"{quantity.rate:.4g} {quantity.unit}, {quantity.ratio:.0%} of {quantity.reference:.4g}"
            noise = f"spread {quantity.spread_frac:.1%}, drift {quantity.drift_frac:+.1%}"
            text.append(f"{quantity.name}: {rate} ({noise}) {quantity.note}".rstrip())
            text += [f"  problem: {problem}" for problem in quantity.problems]
        if self.throttle_note:
            text.append(f"held back: {self.throttle_note}")
        text.append(
            f"{self.device}: measurements taken here can be trusted"
            if self.is_trusted
            else f"{self.device}: measurements taken here cannot be trusted; `apex doctor` says what to look at"
        )
        return text


def self_test(
    spec: "DeviceSpec", device: "torch.device", *, gpu: Gpu | None = None, policy: TimingPolicy | None = None
) -> SelfTest:
    """Measure copy bandwidth and a large GEMM on ``device`` against ``spec``; takes a few seconds.

    On a CPU the peaks of ``spec`` are one core's and are multiplied by torch's threads (bandwidth is not).
    """
    policy = policy or TimingPolicy(max_s=1.0)
    throttle = ThrottleCounters(gpu)
    mark = throttle.mark()
    trials = [_copy_trial(spec, device), _gemm_trial(spec, device, gpu)]
    first = [_measure(trial.prepared, device, policy, throttle) for trial in trials]
    again = [_measure(trial.prepared, device, policy, throttle) for trial in trials]
    return SelfTest(
        device=spec.name,
        quantities=tuple(trial.judge(before, after) for trial, before, after in zip(trials, first, again, strict=True)),
        throttle_note=throttle.since(mark).note,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """One quantity to measure: ``work`` bytes or FLOP per call against ``reference`` per second."""

    name: str
    unit: str
    work: float
    reference: Callable[[], tuple[float, str]]
    prepared: Prepared
    is_gpu: bool
    floor: float

    def judge(self, first: Measurement, again: Measurement) -> Quantity:
        median_s = first.quantile_s(0.5)
        reference, note = self.reference()
        return Quantity(
            name=self.name,
            rate=self.work / median_s,
            unit=self.unit,
            reference=reference,
            floor=self.floor if self.is_gpu else _CPU_FLOOR,
            ceiling=_CEILING if self.is_gpu else _CPU_CEILING,
            spread_frac=(first.quantile_s(0.9) - first.quantile_s(0.1)) / median_s,
            max_spread_frac=_GPU_SPREAD if self.is_gpu else _CPU_SPREAD,
            drift_frac=again.quantile_s(0.5) / median_s - 1.0,
            max_drift_frac=_GPU_DRIFT if self.is_gpu else _CPU_DRIFT,
            note=note,
        )


def _copy_trial(spec: "DeviceSpec", device: "torch.device") -> _Trial:
    import torch

    size = _COPY_BYTES[device.type]
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _Trial(
        name="copy bandwidth",
        unit="B/s",
        work=2.0 * size,
        reference=lambda: (spec.memory_bytes_per_s, ""),
        prepared=Prepared(launch=lambda _: target.copy_(source), copies=1),
        is_gpu=device.type == "cuda",
        floor=_GPU_COPY_FLOOR,
    )


def _gemm_trial(spec: "DeviceSpec", device: "torch.device", gpu: Gpu | None) -> _Trial:
    import torch

    size, dtype = _GEMM_SIZE[device.type], _GEMM_DTYPE[device.type]
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    out = torch.empty(size, size, dtype=kind, device=device)
    peak = spec.peak_flop_per_s[dtype]

    def launch(_: int) -> object:
        return torch.matmul(a, b.t(), out=out)

    def reference() -> tuple[float, str]:
        if device.type != "cuda":
            return peak * torch.get_num_threads(), f"on {torch.get_num_threads()} threads"
        clock_mhz = _clock_under(launch, device, gpu)
        if clock_mhz is None:
            return peak, "clock unknown: held against the peak at the stated clock"
        return peak * clock_mhz / spec.clock.reference_mhz, f"at {clock_mhz:.0f} MHz"

    return _Trial(
        name=f"{dtype} GEMM {size}x{size}x{size}",
        unit="FLOP/s",
        work=2.0 * size**3,
        reference=reference,
        prepared=Prepared(launch=launch, copies=1),
        is_gpu=device.type == "cuda",
        floor=_GPU_GEMM_FLOOR,
    )


def _clock_under(launch: Callable[[int], object], device: "torch.device", gpu: Gpu | None) -> float | None:
    import torch

    if gpu is None:
        return None

    def load() -> None:
        for i in range(20):
            launch(i)
        torch.cuda.synchronize(device)

    try:
        return sm_clock_under_load(gpu, load)[0]
    except NvmlError:
        return None


def _measure(
    prepared: Prepared, device: "torch.device", policy: TimingPolicy, throttle: ThrottleCounters
) -> Measurement:
    stopwatch = CudaStopwatch(prepared, policy, device) if device.type == "cuda" else CpuStopwatch(prepared, policy)
    return take_samples(stopwatch, policy.rule(), throttle)
