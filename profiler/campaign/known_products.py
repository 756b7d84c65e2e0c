"""Large products whose rates are known well enough to hold a machine against: random bf16, zeros, FP8.

Random data draws more power than zeros: where a power limit holds products back, zeros run faster by as much.
"""

from collections.abc import Callable, Iterator
from typing import Final

import torch

from cluster_specs.lazy_dataclass import dataclass
from profiler.backend import Prepared
from profiler.bench import verdict_of
from profiler.device_health import is_usable
from profiler.instruments.throttle import ThrottleCounters
from profiler.timing import CpuStopwatch, CudaStopwatch, TimingPolicy, take_samples

# A CPU may have no fast path for FP8.
_SIDE: Final = {"cuda": 8192, "cpu": 64}
_SCALE: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProduct:
    """FLOP per second of one product, or why there is none."""

    name: str
    flop_per_s: float | None = None
    note: str | None = None

    def __str__(self) -> str:
        """One line for a person."""
        rate = self.note if self.flop_per_s is None else f"{self.flop_per_s / 1e12:.4g} TFLOP/s"
        return f"{self.name}: {rate}"


def known_products(device: torch.device, policy: TimingPolicy, throttle: ThrottleCounters) -> list[KnownProduct]:
    """Measure each; one that cannot run here says why, and ends the list where it took the device with it."""
    side = _SIDE[device.type]
    found = []
    for name, make in _products(side, device):
        title = f"{name} {side}x{side}x{side}"
        try:
            prepared = Prepared(launch=make(), copies=1)
            is_cuda = device.type == "cuda"
            stopwatch = CudaStopwatch(prepared, policy, device) if is_cuda else CpuStopwatch(prepared, policy)
            seconds = take_samples(stopwatch, policy.rule(), throttle).quantile_s(0.5)
        except Exception as error:  # torch raises what it likes where a kernel is missing
            found.append(KnownProduct(name=title, note=str(verdict_of(error)["note"])))
            if not is_usable(device):
                break
            continue
        found.append(KnownProduct(name=title, flop_per_s=2.0 * side**3 / seconds))
    return found


def _products(side: int, device: torch.device) -> Iterator[tuple[str, Callable[[], Callable[[int], object]]]]:
    def bf16(scale: float) -> Callable[[int], object]:
        a, b = (scale * torch.randn(side, side, device=device) for _ in range(2))
        left, right = a.to(torch.bfloat16), b.to(torch.bfloat16).t()
        return lambda _: torch.matmul(left, right)

    def fp8() -> Callable[[int], object]:
        a, b = (torch.randn(side, side, device=device).to(torch.float8_e4m3fn) for _ in range(2))
        one = torch.full((1,), _SCALE, device=device)
        return lambda _: torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16)  # noqa: SLF001 - no public form

    yield "bf16, random", lambda: bf16(1.0)
    yield "bf16, zeros", lambda: bf16(0.0)
    yield "fp8, one scale", fp8
