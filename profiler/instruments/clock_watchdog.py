"""Gives a GPU's clock back when the process that locked it dies without doing so (SIGKILL, abort, stuck native code).

Run as ``python -m profiler.instruments.clock_watchdog UUID PARENT_PID`` with a pipe as standard input: ``restored``
means the parent has restored, end of input (or a changed parent, should a forked child hold the pipe open) that it is
gone.
"""

import os
import select
import signal
import sys
from typing import Final

from profiler.instruments.nvml import Nvml, NvmlError

_POLL_S: Final = 1.0


def main(uuid: str, parent_pid: int) -> int:
    """Wait for the parent's word or its death; in the latter case reset the clock. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the whole process group may be signalled; this process must outlive it
    while os.getppid() == parent_pid:
        ready, _, _ = select.select([sys.stdin], [], [], _POLL_S)
        if ready:
            if os.read(sys.stdin.fileno(), 64).strip() == b"restored":
                return 0
            break
    try:
        with Nvml() as nvml:
            nvml.gpu(uuid).reset_sm_clock()
    except NvmlError as error:
        sys.stderr.write(f"GPU {uuid} keeps its locked clock: {error}\nhint: nvidia-smi --reset-gpu-clocks\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
