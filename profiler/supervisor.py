"""Starts the ranks of one node and keeps the run going when one of them dies: the journal makes a restart cheap.

What torchrun does for many nodes, without its reports: a rank's own message is all a person sees. A rank that is
killed, crashes or ends itself over a hung point or a lost device takes its siblings down; all start again and the run
resumes. A single rank is started this way too: a kernel that faults leaves its process without a device.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

import click

from profiler.errors import RENEW_EXIT_CODE
from profiler.signals import listening

_MAX_RESTARTS: Final = 5
_OVERRUN_CODE: Final = 124  # as `timeout` ends
# Ranks that outlive a dead sibling finish the point in flight, or sit in a collective that never ends.
_GRACE_S: Final = 10.0
_POLL_S: Final = 0.05
# Ends that starting again cannot mend: done, a person's mistake, stopped by a signal.
_FINAL_CODES: Final = frozenset({0, 1, 2, 130, 143})


def supervise(
    module: str,
    world_size: int,
    arguments: Sequence[str],
    *,
    time_option: str,
    limit_s: float | None = None,
    overrun_s: float | None = None,
    max_restarts: int = _MAX_RESTARTS,
) -> int:
    """Run ``python -m module`` on ``world_size`` ranks until they end by themselves; returns the exit code.

    Of a time limit every start gets what is left, as ``time_option``. A process that asks to be replaced has stored a
    row, so it may do so as often as it likes; other deaths are counted. Ranks that still run ``overrun_s`` after the
    limit are killed, and none is started any more.
    """
    deadline_s = None if limit_s is None else time.monotonic() + limit_s
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
        heard.append(number)

    with listening(hear):
        deaths = 0
        while deaths <= max_restarts:
            own = list(arguments)
            if deadline_s is not None:
                left_s = max(deadline_s - time.monotonic(), 1.0)
                own = [*_without(arguments, time_option), time_option, f"{left_s:.1f}s"]
            ranks = _start([sys.executable, "-m", module, *own], world_size)
            end_at_s = None if deadline_s is None or overrun_s is None else deadline_s + overrun_s
            code = _wait(ranks, heard, end_at_s)
            if end_at_s is not None and time.monotonic() > end_at_s:
                click.echo(f"ranks still ran {overrun_s:g} s after the time limit and were killed", err=True)
                return _OVERRUN_CODE
            if code in _FINAL_CODES or heard:
                return code if code >= 0 else 128 - code  # as shells count deaths by a signal
            if code == RENEW_EXIT_CODE:
                continue
            deaths += 1
            click.echo(f"a rank ended with {_name(code)}; starting again ({deaths}/{max_restarts})", err=True)
    click.echo(f"error: ranks died {max_restarts + 1} times; rows measured so far are stored", err=True)
    click.echo("hint: the same command resumes; see the messages above for what the ranks died of", err=True)
    return 1


def _without(arguments: Sequence[str], option: str) -> list[str]:
    """Return the arguments without ``option`` and its value: a command takes neither twice."""
    left, rest = [], iter(arguments)
    for argument in rest:
        if argument == option:
            next(rest, None)
        elif not argument.startswith(f"{option}="):
            left.append(argument)
    return left


def _start(command: Sequence[str], world_size: int) -> list[subprocess.Popen[bytes]]:
    port = _free_port()
    ranks = []
    for rank in range(world_size):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        # A process group of its own: Ctrl-C reaches the ranks once, through this process, not twice.
        ranks.append(subprocess.Popen(command, env=environment, process_group=0))
    return ranks


def _wait(ranks: list[subprocess.Popen[bytes]], heard: list[int], kill_at_s: float | None) -> int:
    """Wait for all; a bad end of one ends the others. Returns the code of the rank that ended first."""
    forwarded, code = 0, 0
    has_ended = False
    try:
        while None in [rank.poll() for rank in ranks]:
            for number in heard[forwarded:]:
                for rank in ranks:
                    rank.send_signal(number)
            forwarded = len(heard)
            ended = [rank.returncode for rank in ranks if rank.returncode]
            if ended and not has_ended:
                has_ended = True
                # A death is the cause of its siblings' ends, a complaint about lost siblings is not.
                code = min(ended, key=lambda code: (code in _FINAL_CODES, code >= 0))
                kill_at_s = min(kill_at_s or math.inf, time.monotonic() + _GRACE_S)
                if code not in _FINAL_CODES:
                    for rank in ranks:
                        rank.terminate()
            if kill_at_s is not None and time.monotonic() > kill_at_s:
                for rank in ranks:
                    rank.kill()
            time.sleep(_POLL_S)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()
    return code or next((rank.returncode for rank in ranks if rank.returncode), 0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
