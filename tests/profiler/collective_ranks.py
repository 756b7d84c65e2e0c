"""One rank of a small gloo world, started by the tests; rank 0 writes what every rank saw agreed as JSON."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from profiler.collective_bench import CollectiveBench, RanksLost
from profiler.collectives import KINDS, PreparedCollective, TorchCollectives
from profiler.point import OpShape, Point
from profiler.rank_groups import default_levels, group_layouts
from profiler.stopping import MedianConfidence


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
                time.sleep(4)
            if self._way == "stopped":
                os.kill(os.getpid(), signal.SIGKILL)
            if self._way == "broken":
                raise RuntimeError("a defect of this path\nwith a long trace")
            return prepared.launch()

        return PreparedCollective(launch)


def main(scenario: str, out: str) -> None:
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    layouts = group_layouts(world, world, default_levels(world, world, device_kind="cpu", has_nvlink=False))
    paths = [TorchCollectives("gloo"), *(Unreliable(way) for way in ("sleepy", "oom", "broken", "stopped"))]
    bench = CollectiveBench(torch.device("cpu"), layouts, timeout_s=1.0, kernels=paths)
    results = []

    def measure(kind, ranks, message_bytes, backend="gloo", *, dtype="bf16"):
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
            for ranks in (2, world):
                measure(kind, ranks, 6144 * ranks)
        measure("all_gather", world, 4096 * 2 + 2)
        measure("all_reduce", 2, 4096, dtype="fp8")
        measure("all_reduce", 4, 4096)
        measure("all_reduce", 2, 4096, "nccl")
        for backend in ("test.oom", "test.sleepy", "test.broken"):
            measure("all_reduce", 2, 4096, backend)
            measure("all_reduce", 2, 4096)
        bench.close()
        dist.destroy_process_group()
    if os.environ["RANK"] == "0":
        Path(out).write_text(json.dumps(results))
    if scenario == "lost":
        os._exit(0)  # a group with a dead member cannot be torn down in order


if __name__ == "__main__":
    main(*sys.argv[1:])
