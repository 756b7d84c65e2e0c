"""One rank of a small gloo world, started by the tests; rank 0 writes what every rank saw agreed as JSON."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from profiler.collectives.bench import CollectiveBench
from profiler.collectives.groups import default_levels, group_layouts
from profiler.collectives.kernels import KINDS, MOST_CALLS, Communicator, PreparedCollective, TorchCollectives
from profiler.errors import RanksLost
from profiler.point import OpShape, Point
from profiler.stopping import MedianConfidence

# No sound collective is to end by a timeout, however slow the machine; one whose partner never comes is to end soon.
PATIENCE_S = 300.0
IMPATIENCE_S = 2.0


class Unreliable(TorchCollectives):
    """A path that goes wrong on rank 1 alone: it sleeps past the timeout, runs out of memory, or has a defect."""

    def __init__(self, way: str) -> None:
        super().__init__("gloo")
        self._way = way

    @property
    def name(self) -> str:
        """Label of the path."""
        return f"test.{self._way}"

    def prepare(self, kind, message_bytes, dtype, communicator):
        """Prepare the real collective; spoil it on rank 1."""
        prepared = super().prepare(kind, message_bytes, dtype, communicator)
        if dist.get_rank() != 1:
            return prepared
        if self._way == "oom":
            raise torch.OutOfMemoryError("no room for the operand")

        def launch():
            if self._way == "sleepy":
                time.sleep(2 * IMPATIENCE_S)
            if self._way == "stopped":
                os.kill(os.getpid(), signal.SIGKILL)
            if self._way == "broken":
                raise RuntimeError("a defect of this path\nwith a long trace")
            return prepared.launch()

        return PreparedCollective(launch)


class _Operands(TorchDispatchMode):
    """Notes the bytes of every tensor a c10d operator is given, and the values an all-reduce finds."""

    def __init__(self):
        super().__init__()
        self.seen = {}
        self.found = self.left = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            self.seen[func._schema.name.removeprefix("c10d::")] = [tensor.nbytes for tensor in tensors]
            if func._schema.name == "c10d::allreduce_":
                self.left, self.found = tensors[0], tensors[0].clone()
        return func(*args, **(kwargs or {}))


def calls_of(kind: str, message_bytes: int) -> _Operands:
    """Note what the c10d operators of one collective over the whole world are given."""
    ranks = tuple(range(dist.get_world_size()))
    whole = Communicator(ranks=ranks, data=dist.group.WORLD, host=dist.group.WORLD, device=torch.device("cpu"))
    prepared = TorchCollectives("gloo").prepare(kind, message_bytes, "bf16", whole)
    with _Operands() as operands:
        prepared.launch()
    return operands


def is_sum(calls: _Operands) -> bool:
    """Whether what an all-reduce left is the sum of what it found on all ranks, within a step of bf16."""
    found = [torch.empty_like(calls.found) for _ in range(dist.get_world_size())]
    dist.all_gather(found, calls.found)
    exact = torch.stack(found).double().sum(0)
    return bool((calls.left.double() - exact).norm() < 0.01 * exact.norm())


def largest_values(dtype: str) -> list[float]:
    """Largest value of an all-reduce's result after as many calls as a sample may have, twice with a restoration."""
    ranks = tuple(range(dist.get_world_size()))
    whole = Communicator(ranks=ranks, data=dist.group.WORLD, host=dist.group.WORLD, device=torch.device("cpu"))
    prepared = TorchCollectives("gloo").prepare("all_reduce", 4096, dtype, whole)
    seen = []
    for _ in range(2):
        prepared.restore()
        for _ in range(MOST_CALLS):
            prepared.launch()
        with _Results() as results:
            prepared.restore()
        seen.append(results.largest)
    return seen


class _Results(TorchDispatchMode):
    """Notes the largest value that is about to be overwritten."""

    def __init__(self):
        super().__init__()
        self.largest = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name == "aten::copy_":
            self.largest = max(self.largest, float(args[0].abs().max()))
        return func(*args, **(kwargs or {}))


def main(scenario: str, out: str) -> None:
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    levels = default_levels(world, world, device_kind="cpu", has_nvlink=False)
    layouts = group_layouts(world, world, levels, sizes=range(2, world + 1))
    paths = [TorchCollectives("gloo"), *(Unreliable(way) for way in ("sleepy", "oom", "broken", "stopped"))]
    patient = CollectiveBench(torch.device("cpu"), layouts, timeout_s=PATIENCE_S, kernels=paths)
    results = []

    def measure(kind, ranks, message_bytes, backend="gloo", *, dtype="bf16", bench=patient):
        op = OpShape.of(
            "collective", dtype=dtype, kind=kind, ranks=ranks, nodes=1, level="memory", message_bytes=message_bytes
        )
        point = Point(op=op, device="cpu", backend=backend, launch="eager", cache="hot")
        try:
            timing = bench.measure(point, MedianConfidence(max_s=0.05))
        except RanksLost as error:
            results.append({"status": "lost", "note": f"{error}"})
            return
        everywhere = [None] * world
        dist.all_gather_object(everywhere, (timing.status, timing.note, timing.samples_s))
        results.append(
            {
                "kind": kind,
                "ranks": ranks,
                "backend": backend,
                "status": timing.status,
                "note": timing.note,
                "samples": len(timing.samples_s),
                "median_s": sorted(timing.samples_s)[len(timing.samples_s) // 2] if timing.samples_s else None,
                "stopped_by": timing.stopped_by,
                "agreed": all(seen == everywhere[0] for seen in everywhere),
            }
        )

    if scenario == "lost":
        measure("all_reduce", 2, 4096, "test.stopped")
    else:
        for kind in KINDS:
            for ranks in (2, 3, world):
                measure(kind, ranks, 6144 * ranks)
            calls = calls_of(kind, 6144 * world)
            results[-1]["operands"] = calls.seen
            if kind == "all_reduce":
                results[-1]["is_sum"] = is_sum(calls)
                results[-1]["largest"] = {dtype: largest_values(dtype) for dtype in ("bf16", "fp16", "fp32")}
        measure("all_gather", world, 4096 * 2 + 2)
        measure("all_reduce", 2, 4096, dtype="fp8")
        measure("all_reduce", 7, 4096)
        measure("all_reduce", 2, 4096, "nccl")
        measure("all_reduce", 2, 4096, "test.oom")
        measure("all_reduce", 2, 4096)
        impatient = CollectiveBench(torch.device("cpu"), layouts, timeout_s=IMPATIENCE_S, kernels=paths)
        for backend in ("test.sleepy", "test.broken"):
            measure("all_reduce", 2, 4096, backend, bench=impatient)
            measure("all_reduce", 2, 4096, bench=impatient)
            while results[-1]["status"] == "timeout":  # a machine so slow that sound ones take too long as well
                results.pop()
                measure("all_reduce", 2, 4096, bench=impatient)
        impatient.close()
        patient.close()
        dist.destroy_process_group()
    if os.environ["RANK"] == "0":
        Path(out).write_text(json.dumps(results))
    if scenario == "lost":
        os._exit(0)  # a group with a dead member cannot be torn down in order


if __name__ == "__main__":
    main(*sys.argv[1:])
