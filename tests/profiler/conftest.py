"""A fake `libnvidia-ml.so.1` compiled from C, under the real binding, for this process and for children."""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("fake_nvml.c")


class FakeNvml:
    """The driver's side of a test: its state file, its log of changes, its locks."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.library = library
        self._state = folder / "nvml.state"
        self.values: dict[str, object] = {"origin_s": time.monotonic() - 1000}
        self.set()

    def set(self, **values: object) -> None:
        """Change what the driver answers from now on; ``__`` in a key stands for a dot."""
        self.values |= {key.replace("__", "."): value for key, value in values.items()}
        text = "".join(f"{key}={value}\n" for key, value in self.values.items())
        written = self._state.with_suffix(".new")
        written.write_text(text)
        written.replace(self._state)

    def stop_clock(self) -> None:
        """Let the driver's time pass in `advance` alone from now on."""
        self.set(now_s=self.values["origin_s"])

    @property
    def now_s(self) -> float:
        """The driver's time, once its clock is stopped."""
        return float(str(self.values["now_s"]))

    def advance(self, duration_s: float) -> None:
        """Let time pass for the driver."""
        self.set(now_s=self.now_s + duration_s)

    def fail(self, function: str, code: int) -> None:
        """Make one function return an NVML code from now on; 0 heals it."""
        self.set(**{f"fail__{function}": code})

    def changes(self) -> list[tuple[str, int, int]]:
        """(``lock`` or ``reset``, GPU, MHz) of every call that changed a GPU, in order."""
        return [(name, int(gpu), int(mhz)) for name, gpu, mhz, _ in self._log()]

    def last_changed_by(self) -> int:
        """Process that changed a GPU last."""
        return int(self._log()[-1][3])

    def _log(self) -> list[list[str]]:
        log = self._state.with_name(self._state.name + ".log")
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def locked_mhz(self, gpu: int = 0) -> int | None:
        """Return the clock the driver holds a GPU at, None when free."""
        lock = self._state.with_name(f"{self._state.name}.lock{gpu}")
        return int(lock.read_text()) if lock.exists() else None

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which a child process finds this library."""
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.library.parent),
            "FAKE_NVML_STATE": str(self._state),
        }


@pytest.fixture(scope="session")
def has_ended() -> Callable[[str], bool]:
    """Return a function that says whether a process has ended, waited for or not."""

    def ended(process_id: str) -> bool:
        try:
            return "zombie" in Path(f"/proc/{process_id}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    return ended


@pytest.fixture(scope="session")
def fake_nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the fake NVML library cannot be built")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    command = [compiler, "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(library), str(_SOURCE)], check=True)
    return library


@pytest.fixture
def fake_nvml(fake_nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    pynvml = pytest.importorskip("pynvml")
    fake = FakeNvml(fake_nvml_library, tmp_path)
    for name in ("LD_LIBRARY_PATH", "FAKE_NVML_STATE"):
        monkeypatch.setenv(name, fake.environment[name])
    # The loader reads LD_LIBRARY_PATH only when a process starts, so this process gives the binding its library.
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(fake_nvml_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return fake
