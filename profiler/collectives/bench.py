"""Times a collective on all ranks at once: the slowest rank of a sample counts, and all stop after the same sample.

One sample is N back-to-back calls after a barrier (on GPUs between two device events, or one replay of a CUDA graph of
N calls), divided by N. After each round the ranks exchange samples, wall time and failures over a host group, so that
all see the same maxima and take the same decision. A collective that hangs longer than the timeout ends as a status,
its groups are dropped and made anew; a rank that does not even answer the exchange raises ``RanksLost``.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist

from cluster_specs.lazy_dataclass import dataclass
from profiler.collectives.attempt import SEVERITY, CollectiveAttempt
from profiler.collectives.groups import GroupLayout
from profiler.collectives.kernels import MOST_CALLS, CollectiveKernel, Communicator, collective_kernels
from profiler.errors import siblings_answer
from profiler.point import Point
from profiler.stopping import StoppingRule
from profiler.watchdog import LauncherWatch

_SAMPLE_S: Final = 1e-3  # a sample lasts at least this long, so that the events' resolution does not show
_ROUND_SAMPLES: Final = 5
_ROUND_S: Final = 0.2  # slow collectives exchange after fewer samples, so that the time cap is seen in time


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveTiming:
    """Result of one point, equal on all ranks: seconds per call of each sample's slowest rank, or why there is none."""

    samples_s: tuple[float, ...] = ()
    calls_per_sample: int = 0
    status: str = "ok"
    note: str = ""
    stopped_by: str = ""


class CollectiveBench:
    """Owns the process groups of all layouts; every rank of the world calls every method in the same order.

    The default process group must be initialised with a gloo part (``cpu:gloo,cuda:nccl`` or ``gloo``). While ranks
    wait for each other to make a group, one whose launcher (``launcher_pid``) has died ends.
    """

    def __init__(
        self,
        device: torch.device,
        layouts: Sequence[GroupLayout],
        *,
        timeout_s: float = 30.0,
        kernels: Sequence[CollectiveKernel] | None = None,
        launcher_pid: int | None = None,
    ) -> None:
        self.device = device
        self._launcher_pid = launcher_pid
        self._timeout_s = timeout_s
        self._layouts = {layout.key: layout for layout in layouts}
        self._kernels = {kernel.name: kernel for kernel in (kernels or collective_kernels(device))}
        self._communicators: dict[tuple[int, int, str], Communicator | None] = {}
        # The exchange must outlive a hung collective on every rank, one after the other.
        with siblings_answer(), LauncherWatch(launcher_pid):
            self._exchange = dist.new_group(backend="gloo", timeout=timedelta(seconds=3 * timeout_s + 10))

    @property
    def layouts(self) -> tuple[GroupLayout, ...]:
        """Layouts that can be measured."""
        return tuple(self._layouts.values())

    def kernels_for(self, kind: str) -> tuple[str, ...]:
        """Return the paths (``backend`` labels) that have this collective."""
        return tuple(name for name, kernel in self._kernels.items() if kind in kernel.kinds())

    def launches(self) -> tuple[str, ...]:
        """Return the launch modes of this device."""
        return ("graph", "eager") if self.device.type == "cuda" else ("eager",)

    def measure(self, point: Point, rule: StoppingRule) -> CollectiveTiming:
        """Measure one collective point; raises ``RanksLost`` alone, everything else becomes a status."""
        shape = point.op.shape
        key = (shape["ranks"], shape["nodes"], shape["level"])
        if key not in self._layouts:
            return CollectiveTiming(
                status="unsupported", note=f"this run has no group of {key[0]} ranks on {key[1]} nodes over {key[2]}"
            )
        if point.backend not in self._kernels:
            return CollectiveTiming(status="unsupported", note=f"this run has no {point.backend}")
        attempt = CollectiveAttempt(self._communicator(key), self._timeout_s)
        shape_kind, message_bytes, kernel = shape["kind"], shape["message_bytes"], self._kernels[point.backend]
        stages: tuple[Callable[[], object], ...] = (
            lambda: attempt.prepare(kernel, shape_kind, message_bytes, point.op.dtype),
            attempt.warm_up,
        )
        for stage in stages:
            attempt.step(stage)
            if (failed := self._agree(attempt, key)) is not None:
                return failed
        call_s = max(self._slowest([attempt.call_s])[0], 1e-9)
        calls = max(1, min(MOST_CALLS, int(_SAMPLE_S / call_s)))
        round_samples = max(1, min(_ROUND_SAMPLES, int(_ROUND_S / (calls * call_s))))
        attempt.step(lambda: attempt.record(calls, is_graph=point.launch == "graph"))
        samples: list[float] = []
        while rule.reason is None:
            attempt.step(lambda: attempt.run_round(round_samples))
            if (failed := self._agree(attempt, key)) is not None:
                return failed
            *round_s, spent_s = self._slowest([*attempt.samples_s, attempt.spent_s])
            samples += round_s
            for sample_s in round_s:
                rule.add(sample_s, spent_s / round_samples)
        return CollectiveTiming(samples_s=tuple(samples), calls_per_sample=calls, stopped_by=rule.reason)

    def close(self) -> None:
        """Destroy the process groups."""
        for communicator in self._communicators.values():
            _destroy(communicator)
        self._communicators.clear()
        dist.destroy_process_group(self._exchange)

    def _communicator(self, key: tuple[int, int, str]) -> Communicator | None:
        """Return this rank's communicator of a layout, None for a rank left over; made by all ranks together."""
        if key not in self._communicators:
            with siblings_answer(), LauncherWatch(self._launcher_pid):  # ranks that died never answer a new group
                self._communicators[key] = self._connect(self._layouts[key])
        return self._communicators[key]

    def _connect(self, layout: GroupLayout) -> Communicator | None:
        mine: Communicator | None = None
        rank = dist.get_rank()
        is_gpu = self.device.type == "cuda"
        for ranks in layout.groups:  # every rank must take part in making every group
            # gloo ends a hung call itself; on NCCL this bench does, and the library's own watchdog, which kills the
            # process, is only the last resort.
            host = dist.new_group(list(ranks), backend="gloo", timeout=timedelta(seconds=self._timeout_s))
            data = host
            if is_gpu:
                data = dist.new_group(list(ranks), backend="nccl", timeout=timedelta(seconds=10 * self._timeout_s))
            if rank in ranks:
                mine = Communicator(ranks=ranks, data=data, host=host, device=self.device)
        return mine

    def _agree(self, attempt: CollectiveAttempt, key: tuple[int, int, str]) -> CollectiveTiming | None:
        """Return the worst failure of any rank, the same on all ranks; None when all are well."""
        world, rank = dist.get_world_size(), dist.get_rank()
        code = SEVERITY.index(attempt.status)
        worst, culprit = divmod(int(self._slowest([float(code * world + (rank if code else 0))])[0]), world)
        if not worst:
            return None
        notes = [attempt.note if rank == culprit else None]
        with siblings_answer():
            dist.broadcast_object_list(notes, src=culprit, group=self._exchange)
        status = SEVERITY[worst]
        if status in {"timeout", "error"}:
            # The groups may be left in disorder: the next point on this layout makes new ones.
            _abandon(self._communicators.pop(key, None))
        return CollectiveTiming(status=status, note=f"rank {culprit}: {notes[0]}")

    def _slowest(self, values: list[float]) -> list[float]:
        """Maximum over all ranks of the world, elementwise."""
        tensor = torch.tensor(values, dtype=torch.float64)
        with siblings_answer():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._exchange)
        return [float(value) for value in tensor]


def _abandon(communicator: Communicator | None) -> None:
    """Tear groups down without waiting for calls that will never end."""
    if communicator is None:
        return
    for group in {communicator.data, communicator.host}:
        # Where torch cannot abort a group, a device that still spins ends the process later, and the run resumes.
        if hasattr(group, "abort"):
            group.abort()


def _destroy(communicator: Communicator | None) -> None:
    if communicator is None:
        return
    if communicator.data is not communicator.host:
        dist.destroy_process_group(communicator.data)
    dist.destroy_process_group(communicator.host)
