"""The GPU's own instruments: typed queries over NVIDIA's management library, in SI units.

Every query either returns a value or raises `NvmlError` that carries NVML's return code; what a missing value means is
decided by the caller, never here. Source: the NVML API reference and nvidia-ml-py's binding.
"""

from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, Final, Self, TypeVar

from cluster_specs.errors import UserError

_T = TypeVar("_T")

# NVML return codes a caller can tell apart.
_UNSUPPORTED_CODES: Final = frozenset({3, 13})  # NOT_SUPPORTED, FUNCTION_NOT_FOUND
_NO_PERMISSION: Final = 4
_INVALID_ARGUMENT: Final = 2

# Nanoseconds a clock limit was active since the driver was loaded: our name -> NVML field id.
THROTTLE_FIELDS: Final[dict[str, int]] = {
    "sw_power_cap": 74,
    "sync_boost": 76,
    "sw_thermal": 269,
    "hw_thermal": 270,
    "power_brake": 271,
}

# Bits of the clock event reasons: what limits the SM clock at this instant.
EVENT_REASON_BITS: Final[dict[str, int]] = {
    "idle": 0x1,
    "locked_clocks": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "power_brake": 0x80,
    "display": 0x100,
    "board_limit": 0x200,
    "reliability": 0x400,
}

_FIELD_POWER_INSTANT: Final = 186
_VIRTUALIZATION: Final = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host-vgpu", 4: "host-vsga"}
# Common ancestor of two GPUs -> the abbreviation `nvidia-smi topo -m` prints.
_PCIE_PATHS: Final = {0: "SELF", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}


class NvmlError(UserError):
    """An NVML query that failed; ``code`` is NVML's return code (0: the library itself is missing)."""

    def __init__(self, message: str, *, code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code

    @property
    def is_unsupported(self) -> bool:
        """The device or the driver does not have this query (MIG, vGPU, some consumer cards, old drivers)."""
        return self.code in _UNSUPPORTED_CODES

    @property
    def is_permission(self) -> bool:
        """The query needs root or a capability this process lacks."""
        return self.code == _NO_PERMISSION


def answered(query: Callable[[], _T]) -> _T | None:
    """Return a query's answer, None where the device or driver refuses it: for what only adds detail."""
    try:
        return query()
    except NvmlError:
        return None


class Nvml:
    """An open NVML session; close it, or use it as a context manager.

    Raises `NvmlError` when the binding or the driver's library is missing or refuses to start.
    """

    __slots__ = ("_pynvml",)

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise NvmlError(
                "the NVML binding is not installed", code=0, hint="pip install 'apex-planner[profile]'"
            ) from error
        self._pynvml: ModuleType = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NvmlError(
                f"NVML cannot be opened: {error}",
                code=error.value,
                hint="is the NVIDIA driver installed, and is the container started with --gpus all?",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the session; handles of its GPUs must not be used after."""
        _call("nvmlShutdown", self._pynvml)

    def driver_version(self) -> str:
        """Version of the kernel driver."""
        return str(_call("nvmlSystemGetDriverVersion", self._pynvml))

    def cuda_version(self) -> str:
        """Newest CUDA the driver supports, as ``major.minor``."""
        version = int(_call("nvmlSystemGetCudaDriverVersion", self._pynvml))
        return f"{version // 1000}.{version % 1000 // 10}"

    def gpus(self) -> list["Gpu"]:
        """All GPUs NVML lists, in PCI bus order (which is not CUDA's default order)."""
        count = int(_call("nvmlDeviceGetCount", self._pynvml))
        return [Gpu(self._pynvml, _call("nvmlDeviceGetHandleByIndex", self._pynvml, i)) for i in range(count)]

    def gpu(self, uuid: str) -> "Gpu":
        """Return the GPU (or MIG instance) of this UUID, with or without its ``GPU-`` or ``MIG-`` prefix."""
        names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
        for name in names[:-1]:
            try:
                return Gpu(self._pynvml, _call("nvmlDeviceGetHandleByUUID", self._pynvml, name.encode()))
            except NvmlError:
                continue
        return Gpu(self._pynvml, _call("nvmlDeviceGetHandleByUUID", self._pynvml, names[-1].encode()))


class Gpu:
    """One GPU as NVML sees it. Every method raises `NvmlError` where the device refuses the query."""

    __slots__ = ("_handle", "_pynvml", "name", "uuid")

    def __init__(self, pynvml: ModuleType, handle: Any) -> None:
        self._pynvml = pynvml
        self._handle = handle
        self.name: str = self._query("nvmlDeviceGetName")
        self.uuid: str = self._query("nvmlDeviceGetUUID")

    def sm_clock_mhz(self) -> float:
        """SM clock at this instant; meaningful under load only."""
        return float(self._query("nvmlDeviceGetClockInfo", self._pynvml.NVML_CLOCK_SM))

    def supported_sm_clocks_mhz(self) -> tuple[int, ...]:
        """SM clocks that can be locked at the highest memory clock, ascending."""
        memory_mhz = max(self._query("nvmlDeviceGetSupportedMemoryClocks"))
        return tuple(sorted(self._query("nvmlDeviceGetSupportedGraphicsClocks", memory_mhz)))

    def lock_sm_clock(self, mhz: int) -> None:
        """Ask the driver to hold the SM clock at ``mhz``; in force until reset, reboot or driver reload."""
        self._query("nvmlDeviceSetGpuLockedClocks", mhz, mhz)

    def reset_sm_clock(self) -> None:
        """Undo `lock_sm_clock`."""
        self._query("nvmlDeviceResetGpuLockedClocks")

    def energy_j(self) -> float:
        """Energy of the board since the driver was loaded; the counter updates only every 20 to 100 ms."""
        return float(self._query("nvmlDeviceGetTotalEnergyConsumption")) / 1e3

    def power_w(self) -> float:
        """Power at this instant (field 186), else the driver's running average where the field is missing."""
        instant = answered(lambda: self._fields(_FIELD_POWER_INSTANT)[0])
        if instant is not None:
            return instant / 1e3
        return float(self._query("nvmlDeviceGetPowerUsage")) / 1e3

    def power_limit_w(self) -> float:
        """Read the power limit in force."""
        return float(self._query("nvmlDeviceGetEnforcedPowerLimit")) / 1e3

    def temperature_c(self) -> float:
        """Die temperature."""
        return float(self._query("nvmlDeviceGetTemperature", self._pynvml.NVML_TEMPERATURE_GPU))

    def event_reasons(self) -> frozenset[str]:
        """Names of what limits the SM clock at this instant (keys of `EVENT_REASON_BITS`)."""
        try:
            bits = int(self._query("nvmlDeviceGetCurrentClocksEventReasons"))
        except NvmlError as error:
            if not error.is_unsupported:
                raise
            # Drivers before 535 know the query by its old name only.
            bits = int(self._query("nvmlDeviceGetCurrentClocksThrottleReasons"))
        return frozenset(name for name, bit in EVENT_REASON_BITS.items() if bits & bit)

    def throttle_s(self) -> dict[str, float | None]:
        """Seconds each limit of `THROTTLE_FIELDS` was active since the driver was loaded; None where not counted."""
        values = self._fields(*THROTTLE_FIELDS.values())
        return {
            name: None if value is None else value / 1e9 for name, value in zip(THROTTLE_FIELDS, values, strict=True)
        }

    def is_mig(self) -> bool:
        """Whether the GPU is split into instances, so that board counters do not belong to one process."""
        if self.uuid.startswith("MIG-"):
            return True
        try:
            current, _ = self._query("nvmlDeviceGetMigMode")
        except NvmlError as error:
            if error.is_unsupported or error.code == _INVALID_ARGUMENT:
                return False  # the architecture has no MIG
            raise
        return bool(current)

    def virtualization(self) -> str:
        """``none``, ``passthrough``, ``vgpu``, ``host-vgpu`` or ``host-vsga``."""
        mode = int(self._query("nvmlDeviceGetVirtualizationMode"))
        return _VIRTUALIZATION.get(mode, f"mode {mode}")

    def is_persistent(self) -> bool:
        """Whether the driver stays loaded when no process uses the GPU."""
        return bool(self._query("nvmlDeviceGetPersistenceMode"))

    def memory_bytes(self) -> tuple[int, int]:
        """Total and used device memory."""
        info = self._query("nvmlDeviceGetMemoryInfo")
        return int(info.total), int(info.used)

    def compute_process_ids(self) -> tuple[int, ...]:
        """List processes with a compute context on the GPU, as far as this PID namespace shows them."""
        return tuple(int(entry.pid) for entry in self._query("nvmlDeviceGetComputeRunningProcesses"))

    def uncorrected_ecc_errors(self) -> int:
        """Uncorrected memory errors since the driver was loaded."""
        return int(
            self._query(
                "nvmlDeviceGetTotalEccErrors",
                self._pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                self._pynvml.NVML_VOLATILE_ECC,
            )
        )

    def pci_bus_id(self) -> str:
        """PCI address, as in ``0000:3b:00.0`` (lower case, four-digit domain: the form sysfs uses)."""
        bus_id = str(_text(self._query("nvmlDeviceGetPciInfo").busId)).lower()
        domain, _, rest = bus_id.partition(":")
        return f"{domain[-4:]}:{rest}"

    def pcie_link(self) -> tuple[int, int, int, int]:
        """PCIe generation and width now, and the highest of each the slot and device allow together."""
        queries = ("CurrPcieLinkGeneration", "CurrPcieLinkWidth", "MaxPcieLinkGeneration", "MaxPcieLinkWidth")
        gen, width, max_gen, max_width = (int(self._query(f"nvmlDeviceGet{query}")) for query in queries)
        return gen, width, max_gen, max_width

    def active_nvlinks(self) -> int:
        """Count the NVLink lanes that are up; 0 where the device has none."""
        active = 0
        for link in range(int(self._pynvml.NVML_NVLINK_MAX_LINKS)):
            try:
                active += bool(self._query("nvmlDeviceGetNvLinkState", link))
            except NvmlError as error:
                if error.is_unsupported or error.code == _INVALID_ARGUMENT:
                    break  # past the last link of this device
                raise
        return active

    def path_to(self, other: "Gpu") -> str:
        """How two GPUs reach each other: ``NV`` over NVLink, else ``PIX PXB PHB NODE SYS`` as nvidia-smi names them."""
        nvlink = self._pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        try:
            if _call("nvmlDeviceGetP2PStatus", self._pynvml, self._handle, other._handle, nvlink) == 0:  # noqa: SLF001 - same class
                return "NV"
        except NvmlError as error:
            if not error.is_unsupported:
                raise
        level = int(_call("nvmlDeviceGetTopologyCommonAncestor", self._pynvml, self._handle, other._handle))  # noqa: SLF001 - same class
        return _PCIE_PATHS.get(level, f"level {level}")

    def _query(self, name: str, *arguments: object) -> Any:
        return _call(name, self._pynvml, self._handle, *arguments)

    def _fields(self, *field_ids: int) -> list[float | None]:
        """Values of unsigned fields; None for each one the device does not have."""
        values = self._query("nvmlDeviceGetFieldValues", list(field_ids))
        return [_field_number(value) if value.nvmlReturn == 0 else None for value in values]


def _field_number(field: Any) -> float:
    """Read NVML's tagged union (0 double, 1 unsigned, 2 and 3 unsigned long, 4 long long, 5 int, 6 short)."""
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    return float(getattr(field.value, members[field.valueType]))


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def _call(name: str, pynvml: ModuleType, *arguments: object) -> Any:
    """Call one binding function; its error becomes ours, with the query's name and a hint where there is one."""
    function: Callable[..., Any] = getattr(pynvml, name)
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        code = int(error.value)
        hint = "run as root, or give the container CAP_SYS_ADMIN" if code == _NO_PERMISSION else ""
        raise NvmlError(f"{name}: {error}", code=code, hint=hint) from error
