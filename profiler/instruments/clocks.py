"""Locks the SM clock for a sweep, says which clock is truly in force, and always gives the clock back.

A lock is a request: the driver snaps it to a supported step, and a power or heat limit may pull the clock below it. The
clock is therefore read back under load, and a row carries the clock in force, not the one asked for. The lock outlives
the process that set it, so it is undone on every way out: leaving the context, an exception, `atexit`, SIGINT, SIGTERM
and SIGHUP in this process; a small watchdog process (`profiler.instruments.clock_watchdog`) covers SIGKILL, aborts and
a process stuck in native code. If both die at once (a whole job killed): ``nvidia-smi --reset-gpu-clocks`` or
``apex doctor --reset-clocks``.
"""

import atexit
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import Final, Protocol, Self

from cluster_specs.lazy_dataclass import dataclass
from profiler.instruments.nvml import Gpu, NvmlError

_TOLERANCE_MHZ: Final = 20.0  # one 15 MHz step, and what reading back under load rounds away
_CAPPING: Final = frozenset({"sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "power_brake"})
_SAMPLE_INTERVAL_S: Final = 0.01
RESET_COMMAND: Final = "nvidia-smi --reset-gpu-clocks   (or: apex doctor --reset-clocks)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockLock:
    """What became of a request: columns ``clock_mhz`` (in force; None = unlocked) and ``sm_clock_mhz`` (under load).

    ``note`` is one clear sentence when the outcome is not simply what was asked for.
    """

    requested_mhz: int | None = None
    clock_mhz: float | None = None
    sm_clock_mhz: float | None = None
    note: str = ""


class ClockControl(Protocol):
    """The seam between a clock sweep and what can lock clocks; a context manager that restores on the way out."""

    @property
    def refusal(self) -> str:
        """Why clocks cannot be locked here, as one sentence; empty when no refusal is known."""

    def supported_mhz(self) -> tuple[int, ...]:
        """SM clocks that can be asked for, ascending; empty when unknown."""

    def lock(self, mhz: int) -> ClockLock:
        """Lock, run the load, read back. Never raises for a refusal: the result is then unlocked and says why."""

    def observe(self) -> ClockLock:
        """Read the clock under load without asking for one."""

    def restore(self) -> None:
        """Give the clock back to the driver; does nothing when nothing is locked."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_clock_control(gpu: Gpu | None, load: Callable[[], None] | None = None, *, why: str = "") -> ClockControl:
    """Return the control of one GPU, or one that refuses with ``why`` when there is none (a CPU, no NVML).

    ``load`` runs some tens of milliseconds of work on the GPU and returns when it is done; it is called from another
    thread while the clock is read. Without it the clock is read as it is, which for an idle GPU says little.
    """
    if gpu is None:
        return UnlockedClocks(why or "there is no GPU whose clock could be locked")
    return NvmlClocks(gpu, load)


class UnlockedClocks:
    """The control of a device without clocks to lock: refuses by name and changes nothing."""

    __slots__ = ("_refusal",)

    def __init__(self, refusal: str) -> None:
        self._refusal = refusal

    @property
    def refusal(self) -> str:
        """Why nothing can be locked."""
        return self._refusal

    def supported_mhz(self) -> tuple[int, ...]:
        """No clock can be asked for."""
        return ()

    def lock(self, mhz: int) -> ClockLock:
        """Refuse."""
        return ClockLock(requested_mhz=mhz, note=self._refusal)

    def observe(self) -> ClockLock:
        """Nothing can be read."""
        return ClockLock()

    def restore(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back."""


class NvmlClocks:
    """Locks one GPU's SM clock through NVML; see the module for the ways it is given back."""

    __slots__ = ("_gpu", "_load", "_owner_pid", "_previous", "_refusal", "_sample_s", "_settle_s", "_watchdog")

    def __init__(
        self, gpu: Gpu, load: Callable[[], None] | None = None, *, settle_s: float = 0.2, sample_s: float = 0.3
    ) -> None:
        self._gpu = gpu
        self._load = load
        self._settle_s = settle_s
        self._sample_s = sample_s
        self._refusal = ""
        self._owner_pid: int | None = None
        self._previous: dict[int, signal.Handlers] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def refusal(self) -> str:
        """Why the last lock was refused; empty before the first refusal."""
        return self._refusal

    def supported_mhz(self) -> tuple[int, ...]:
        """SM clocks of the highest memory clock, ascending; empty when the device does not list them."""
        try:
            return self._gpu.supported_sm_clocks_mhz()
        except NvmlError:
            return ()

    def lock(self, mhz: int) -> ClockLock:
        """Lock the supported clock nearest to ``mhz`` and report the one in force under load."""
        supported = self.supported_mhz()
        asked = min(supported, key=lambda clock: abs(clock - mhz)) if supported else mhz
        self._arm()
        try:
            self._gpu.lock_sm_clock(asked)
        except NvmlError as error:
            self._disarm()
            self._refusal = f"the SM clock cannot be locked ({error}); measuring unlocked, rows carry clock_mhz = null"
            return ClockLock(requested_mhz=mhz, sm_clock_mhz=self.observe().sm_clock_mhz, note=self._refusal)
        observed, reasons = self._read_under_load()
        outcome = _judge(mhz, asked, observed, reasons, supported)
        if outcome.clock_mhz is None:
            self.restore()
            self._refusal = outcome.note
        return outcome

    def observe(self) -> ClockLock:
        """Read the clock under load without asking for one."""
        observed, _ = self._read_under_load()
        return ClockLock(sm_clock_mhz=observed)

    def restore(self) -> None:
        """Give the clock back; raises `NvmlError` naming the reset command when the driver refuses."""
        if self._owner_pid != os.getpid():
            return  # nothing locked, or a forked child of the process that locked
        try:
            self._gpu.reset_sm_clock()
        except NvmlError as error:
            raise NvmlError(
                f"GPU {self._gpu.uuid} keeps its locked clock: {error}", code=error.code, hint=RESET_COMMAND
            ) from error
        self._disarm()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def _arm(self) -> None:
        """Prepare every way back before the lock is set."""
        if self._owner_pid is not None:
            return
        self._owner_pid = os.getpid()
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "profiler.instruments.clock_watchdog", self._gpu.uuid, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # a reader of the dead process's output must not wait for this one
            start_new_session=True,
        )
        atexit.register(self._restore_or_say)
        if threading.current_thread() is not threading.main_thread():
            return  # Python sets handlers in the main thread only; the watchdog covers the rest
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A handler of the program's own unwinds or exits, which restores; only the silent default needs help.
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._restore_and_die)
                self._previous[number] = signal.SIG_DFL

    def _disarm(self) -> None:
        self._owner_pid = None
        atexit.unregister(self._restore_or_say)
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            try:
                watchdog.communicate(b"restored\n", timeout=10)
            except subprocess.TimeoutExpired:
                watchdog.kill()
                watchdog.wait()

    def _restore_or_say(self) -> None:
        try:
            self.restore()
        except NvmlError as error:
            sys.stderr.write(f"{error}\nhint: {error.hint}\n")

    def _restore_and_die(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's signature
        """Restore, then die of the same signal, so that the parent sees the true cause."""
        self._restore_or_say()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _read_under_load(self) -> tuple[float | None, frozenset[str]]:
        """Median SM clock while the load runs, and the limits seen; None when the clock cannot be read."""
        try:
            if self._load is None:
                return self._gpu.sm_clock_mhz(), self._gpu.event_reasons()
            return sm_clock_under_load(self._gpu, self._load, settle_s=self._settle_s, sample_s=self._sample_s)
        except NvmlError:
            return None, frozenset()


def sm_clock_under_load(
    gpu: Gpu, load: Callable[[], None], *, settle_s: float = 0.2, sample_s: float = 0.3
) -> tuple[float, frozenset[str]]:
    """Run ``load`` again and again in a thread; after ``settle_s`` read the clock for ``sample_s``.

    Returns the median SM clock in MHz and every limit that was active. Raises `NvmlError` when it cannot be read, and
    whatever the load raises.
    """
    stop = threading.Event()

    def run_load() -> None:
        while not stop.is_set():
            load()

    clocks: list[float] = []
    reasons: frozenset[str] = frozenset()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="load") as pool:
        running = pool.submit(run_load)
        try:
            time.sleep(settle_s)
            deadline = time.perf_counter() + sample_s
            while not clocks or time.perf_counter() < deadline:
                clocks.append(gpu.sm_clock_mhz())
                reasons |= gpu.event_reasons()
                time.sleep(_SAMPLE_INTERVAL_S)
        finally:
            stop.set()
        running.result()
    return statistics.median(clocks), reasons


def _judge(
    requested: int, asked: int, observed: float | None, reasons: frozenset[str], supported: tuple[int, ...]
) -> ClockLock:
    """Tell held, capped, snapped elsewhere and not in force apart."""
    snapped = f"{requested} MHz is no supported clock, asked for {asked} MHz instead" if asked != requested else ""
    if observed is None:
        note = f"locked at {asked} MHz, but the clock cannot be read back"
        return ClockLock(requested_mhz=requested, clock_mhz=asked, note=note)
    if abs(observed - asked) <= _TOLERANCE_MHZ:
        return ClockLock(requested_mhz=requested, clock_mhz=asked, sm_clock_mhz=observed, note=snapped)
    if observed > asked:
        note = f"the driver took a lock at {asked} MHz but ran at {observed:.0f} MHz under load; measuring unlocked"
        return ClockLock(requested_mhz=requested, sm_clock_mhz=observed, note=note)
    limits = sorted(_CAPPING & reasons)
    if limits:
        note = f"locked at {asked} MHz, held back to {observed:.0f} MHz by {', '.join(limits)}"
        return ClockLock(requested_mhz=requested, clock_mhz=asked, sm_clock_mhz=observed, note=note)
    in_force = min(supported, key=lambda clock: abs(clock - observed)) if supported else observed
    note = f"asked for {asked} MHz, the driver locked {in_force:.0f} MHz"
    return ClockLock(requested_mhz=requested, clock_mhz=in_force, sm_clock_mhz=observed, note=note)
