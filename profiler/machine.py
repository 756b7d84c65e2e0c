"""This rank's device and the instruments on it, opened once and closed on every way out."""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from cluster_specs.driver_names import device_of_driver
from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiler.instruments.clocks import ClockControl, open_clock_control
from profiler.instruments.nvml import Gpu, Nvml, NvmlError
from profiler.instruments.throttle import ThrottleCounters
from profiler.ranks import RankPlace

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")
_INSTALL_HINT: Final = "pip install 'apex-planner[profile]', and the torch build that fits this machine's driver"


def require_torch() -> None:
    """Raise ``UserError`` where torch cannot be imported."""
    try:
        import torch  # noqa: F401 - the import is the check
    except ImportError as error:
        raise UserError(f"measuring needs torch, which cannot be imported: {error}", hint=_INSTALL_HINT) from error


def resolve_device(wanted: str, place: RankPlace) -> "torch.device":
    """Return this rank's device for ``auto``, ``cpu`` or ``cuda``; raises ``UserError`` where there is none."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not count):
        return torch.device("cpu")
    if not count:
        build = f"torch {torch.__version__} is built " + (
            f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        )
        raise UserError(
            f"--device cuda: torch sees no GPU ({build})",
            hint="run `apex doctor`, or measure the CPU with --device cpu",
        )
    if place.ranks_per_node > count:
        raise UserError(
            f"{place.ranks_per_node} ranks on this node, but torch sees {count} GPUs",
            hint=f"start at most {count} per node: --nproc-per-node {count}",
        )
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One rank's device: ``name`` is the ``device`` column; ``nvml`` and ``gpu`` are None where there are none."""

    device: "torch.device"
    name: str
    nvml: Nvml | None
    gpu: Gpu | None
    without_nvml: str

    @classmethod
    def open(cls, wanted: str, name: str | None, place: RankPlace, *, threads: int) -> "Machine":
        """Find the device and its instruments; raises ``UserError`` for a device that is not there."""
        require_torch()
        import torch

        device = resolve_device(wanted, place)
        if device.type == "cpu":
            # One rank is one core, so that one rank and eight measure the same device.
            torch.set_num_threads(threads)
            return cls(device=device, name=name or "cpu", nvml=None, gpu=None, without_nvml="a CPU has no NVML")
        nvml, gpu, why = _open_nvml(device)
        title = torch.cuda.get_device_name(device)
        found = name or device_of_driver(title)
        if found is None:
            found = "".join(char if char.isalnum() else "-" for char in title.lower()).strip("-")
        return cls(device=device, name=found, nvml=nvml, gpu=gpu, without_nvml=why)

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.device.type

    @property
    def throttle(self) -> ThrottleCounters:
        """Counters of what holds the device back."""
        return ThrottleCounters(self.gpu)

    @property
    def has_nvlink(self) -> bool:
        """Whether NVLink is known to be active on this GPU."""
        return bool(_asked(self.gpu, Gpu.active_nvlinks))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a GPU without its instruments leaves unknown, for the summary."""
        if self.kind == "cpu" or self.gpu is not None:
            return ()
        return (f"clocks, throttling, temperature and energy are not recorded: {self.without_nvml}",)

    def clocks(self) -> ClockControl:
        """Return the clock control, with a GEMM as the load under which clocks are read."""
        if self.gpu is None:
            why = f"the clock cannot be locked ({self.without_nvml}); measuring unlocked, rows carry clock_mhz = null"
            return open_clock_control(None, why=why)
        return open_clock_control(self.gpu, _gemm_load(self.device))

    def sm_clock_mhz(self) -> float | None:
        """SM clock now, None where nobody can tell."""
        return _asked(self.gpu, Gpu.sm_clock_mhz)

    def temperature_c(self) -> float | None:
        """Die temperature now, None where nobody can tell."""
        return _asked(self.gpu, Gpu.temperature_c)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.nvml is not None:
            self.nvml.close()


def _asked(gpu: Gpu | None, query: Callable[[Gpu], _T]) -> _T | None:
    if gpu is None:
        return None
    try:
        return query(gpu)
    except NvmlError:
        return None


def _open_nvml(device: "torch.device") -> tuple[Nvml | None, Gpu | None, str]:
    """Open NVML and find torch's GPU in it by UUID (the two count in different orders)."""
    import torch

    try:
        nvml = Nvml()
    except NvmlError as error:
        return None, None, str(error)
    try:
        return nvml, nvml.gpu(str(torch.cuda.get_device_properties(device).uuid)), ""
    except (NvmlError, AttributeError) as error:
        return nvml, None, f"NVML does not know this GPU: {error}"


def _gemm_load(device: "torch.device") -> Callable[[], None]:
    """Return a load of some tens of milliseconds of matrix work."""
    import torch

    def load() -> None:
        with torch.cuda.device(device):
            matrix = torch.randn(8192, 8192, device=device, dtype=torch.float16)
            for _ in range(20):
                torch.mm(matrix, matrix)
            torch.cuda.synchronize(device)

    return load
