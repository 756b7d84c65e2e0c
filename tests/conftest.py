"""What every test runs under: no property is timed, and every process a test starts hears every signal."""

import contextlib
import io
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A busy or slow machine is no defect.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

Start = Callable[..., "subprocess.Popen[str]"]
WaitUntil = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="session", autouse=True)
def _every_signal_is_heard() -> None:
    """Let no process a test starts inherit that a signal is ignored, as `nohup make test &` would have it.

    A signal this process was started to ignore is heard and dropped instead, so that it still does not end the tests:
    what a process catches is at its default again in the programs it starts, what it ignores stays ignored there.
    """

    def drop(number: int, frame: FrameType | None) -> None:
        pass

    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, drop)


@pytest.fixture(scope="session")
def run_apex() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a command of `apex` in this process, which spares a second of imports, and tell what a process would."""

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        from simulator.cli import main

        words = [str(argument) for argument in arguments]
        said, answer = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(answer), pytest.raises(SystemExit) as stop:
            main(words)
        code = stop.value.code
        assert code is None or isinstance(code, int)
        return subprocess.CompletedProcess(words, code or 0, answer.getvalue(), said.getvalue())

    return run


@pytest.fixture
def start() -> Iterator[Start]:
    """Start real processes, whose streams are text; those that outlive the test are killed."""
    started: list[subprocess.Popen[str]] = []

    def started_process(command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        started.append(subprocess.Popen(command, text=True, **options))
        return started[-1]

    yield started_process
    for process in started:
        with process:
            process.kill()


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """Wait for something to become true, however long it takes; the limit of the whole test ends a hang."""

    def wait(is_so: Callable[[], object]) -> None:
        while not is_so():
            time.sleep(0.01)

    return wait
