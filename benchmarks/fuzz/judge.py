"""Runs one command in this process and says what is wrong with how it ended.

It must end with a documented exit code, within the CPU time and memory a small input may take; its message must fit a
screen and name the file. A traceback, a hang or a warning of a library is a fault.
"""

import contextlib
import io
import signal
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from simulator.cli import main

EXIT_CODES: Final = (0, 1, 2, 3)
MOST_CPU_S: Final = 20.0
MOST_MESSAGE: Final = 2_000
MOST_MEMORY_KIB: Final = 2**20
# What a process holds that has loaded the libraries and the compiled simulator, and nothing else.
FRESH_KIB: Final = 300 * 2**10


class Hang(BaseException):
    """The command took more CPU time than any small input may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a command ended; ``fault`` is empty when that is as it should be."""

    exit_code: int | None
    fault: str
    said: str
    peak_kib: int  # a process of its own would have held, at most


def warm_up() -> None:
    """Compile the simulator, once: what that takes is no case's fault."""
    trace = "synthetic:isl=20,osl=3,rate=1,n=2"
    command = ["simulate", "--model", "tiny-llama", "--cluster", "cpu-2", "--plan", "tp1", "--trace", trace]
    silent = io.StringIO()
    with contextlib.redirect_stderr(silent), contextlib.redirect_stdout(silent), contextlib.suppress(SystemExit):
        main(command)


def judge(arguments: Sequence[str], *, names: Sequence[str] = ()) -> Verdict:
    """Run ``apex`` with ``arguments``; a refusal must name one of ``names`` (none: no file is read)."""
    said, answer = io.StringIO(), io.StringIO()
    code: int | None = None
    fault = ""
    before = signal.signal(signal.SIGPROF, _end)
    reset_peak()
    held_kib = memory_kib("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, MOST_CPU_S)
    try:
        with warnings.catch_warnings(record=True) as heard, contextlib.redirect_stderr(said):
            warnings.simplefilter("always")
            with contextlib.redirect_stdout(answer):
                main(list(arguments))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except Hang:
        fault = "hang"
    except BaseException:
        fault = "traceback: " + _last_lines(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
    message = said.getvalue()
    # The process may hold what others left in it, such as tests that ran before.
    peak = FRESH_KIB + max(0, memory_kib("VmHWM") - held_kib)
    if not fault:
        fault = _fault_of(code, message, names, heard, peak)
    return Verdict(exit_code=code, fault=fault, said=message, peak_kib=peak)


def _fault_of(
    code: int | None, message: str, names: Sequence[str], heard: Sequence[warnings.WarningMessage], peak: int
) -> str:
    if code not in EXIT_CODES:
        return f"exit code {code}: {message[-300:]}"
    if heard:
        return f"warning: {heard[0].message} at {Path(heard[0].filename).name}:{heard[0].lineno}"
    if "Traceback" in message:
        return "traceback printed: " + _last_lines(message)
    if code and len(message) > MOST_MESSAGE:
        return f"a message of {len(message)} characters: {message[:200]}"
    if code and not message.strip():
        return f"exit code {code} without a word"
    # Exit code 3 is an answer: no plan can start.
    if code in {1, 2} and names and not any(name in message for name in names):
        return f"a message that names no file: {message[:300]}"
    if peak > MOST_MEMORY_KIB:
        return f"{peak // 1024} MB of memory"
    return ""


def _end(_: int, __: FrameType | None) -> None:
    raise Hang


def _last_lines(text: str) -> str:
    """Return where a traceback ended, in a line: the innermost frames and the exception."""
    lines = [line.strip() for line in text.strip().splitlines()]
    frames = [line for line in lines if line.startswith("File ")]
    return " < ".join([lines[-1][:200], *(frame[:160] for frame in frames[-3:][::-1])])


def reset_peak() -> None:
    """Start the kernel's record of this process's largest memory anew, where it can be."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_kib(name: str) -> int:
    """Return resident memory now (``VmRSS``) or at most since the last reset (``VmHWM``); 0 where nobody says."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith(name)).split()[1])
    return 0
