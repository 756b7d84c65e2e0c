"""One rank's part in measuring one collective: allocate, warm up, record a graph, take samples, and how it failed.

On a GPU the wait for a sample polls a device event, because a collective whose partner never comes spins on the device
for ever; on a CPU gloo's own timeout ends the call.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist

from profiler.backend import Unsupported
from profiler.collectives.kernels import CollectiveKernel, Communicator, PreparedCollective
from profiler.timing import LEAD_IN_CYCLES

# The cause wins over its consequence: a rank that fails makes the others wait until their timeout.
SEVERITY: Final = ("ok", "timeout", "unsupported", "oom", "error")
_EVENT: Final[Any] = torch.cuda.Event  # torch ships no types for it
_WARM_UP_CALLS: Final = 5
_POLL_S: Final = 1e-4
# What gloo and NCCL say when the other side hung, stopped or dropped the connection.
_HUNG_WORDS: Final = ("timed out", "timeout", "connection closed", "connection reset", "broken pipe")


class CollectiveAttempt:
    """Runs one rank's side; a rank without a communicator (left over by the layout) takes part by doing nothing."""

    __slots__ = (
        "_calls",
        "_communicator",
        "_prepared",
        "_run",
        "_timeout_s",
        "call_s",
        "note",
        "samples_s",
        "spent_s",
        "status",
    )

    def __init__(self, communicator: Communicator | None, timeout_s: float) -> None:
        self._communicator = communicator
        self._timeout_s = timeout_s
        self._prepared: PreparedCollective | None = None
        self._run: Callable[[], object] = lambda: None
        self._calls = 1
        self.call_s = 0.0
        self.samples_s: list[float] = []
        self.spent_s = 0.0
        self.status = "ok"
        self.note = ""

    def step(self, stage: Callable[[], object]) -> None:
        """Run one stage unless an earlier one failed; a failure becomes ``status`` and ``note``."""
        if self.status != "ok":
            return
        try:
            stage()
        except Unsupported as error:
            self.status, self.note = "unsupported", str(error)
        except torch.OutOfMemoryError as error:
            self.status, self.note = "oom", first_line(error)
        except (RuntimeError, TimeoutError) as error:
            if any(word in str(error).lower() for word in _HUNG_WORDS):
                self.status, self.note = (
                    "timeout",
                    f"the collective did not end within {self._timeout_s:g} s on all ranks",
                )
            else:
                self.status, self.note = "error", first_line(error)

    def prepare(self, kernel: CollectiveKernel, kind: str, message_bytes: int, dtype: str) -> None:
        """Allocate operands."""
        if self._communicator is not None:
            self._prepared = kernel.prepare(kind, message_bytes, dtype, self._communicator)

    def warm_up(self) -> None:
        """Make connections, fault memory in, and estimate ``call_s``."""
        if self._prepared is None:
            return
        self._prepared.launch()
        self._wait()
        start = time.perf_counter()
        for _ in range(_WARM_UP_CALLS):
            self._prepared.launch()
        self._wait()
        self.call_s = (time.perf_counter() - start) / _WARM_UP_CALLS

    def record(self, calls: int, *, is_graph: bool) -> None:
        """Fix what a sample runs: ``calls`` launches, as one CUDA graph where asked."""
        self._calls = calls
        prepared = self._prepared
        if prepared is None:
            return
        launch = prepared.launch

        def run_calls() -> None:
            for _ in range(calls):
                launch()

        prepared.restore()
        if not is_graph:
            self._run = run_calls
            return
        graph = torch.cuda.CUDAGraph()
        # NCCL's own threads query events meanwhile, which only a thread's own capture forgives.
        with prepared.capture(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run_calls()
        graph.replay()
        self._wait()
        self._run = graph.replay

    def run_round(self, samples: int) -> None:
        """Take samples: seconds per call of this rank, in ``samples_s``; wall time in ``spent_s``."""
        start = time.perf_counter()
        self.samples_s = [self._sample() / self._calls for _ in range(samples)]
        self.spent_s = time.perf_counter() - start

    def _sample(self) -> float:
        communicator = self._communicator
        if communicator is None or self._prepared is None:
            return 0.0
        self._prepared.restore()
        if communicator.device.type == "cuda":
            return self._device_sample(communicator)
        dist.barrier(group=communicator.host)
        start = time.perf_counter()
        self._run()
        return time.perf_counter() - start

    def _device_sample(self, communicator: Communicator) -> float:
        """Time on the device's own clock, from a point in the stream where all ranks have met.

        The device spins after that point until the host has queued the calls, as for compute kernels.
        """
        begin, end = _EVENT(enable_timing=True), _EVENT(enable_timing=True)
        dist.all_reduce(torch.zeros(1, device=communicator.device), group=communicator.data)
        torch.cuda._sleep(LEAD_IN_CYCLES)  # type: ignore[no-untyped-call]  # noqa: SLF001 - torch's only spin kernel
        begin.record()
        self._run()
        end.record()
        self._wait()
        return float(begin.elapsed_time(end)) / 1e3

    def _wait(self) -> None:
        """Wait for the device, but not for ever; raises ``TimeoutError``."""
        if self._communicator is None or self._communicator.device.type != "cuda":
            return
        done = _EVENT()
        done.record()
        deadline = time.perf_counter() + self._timeout_s
        while not done.query():
            if time.perf_counter() > deadline:
                raise TimeoutError("the device timed out")
            time.sleep(_POLL_S)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, which is what fits a row's note."""
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
