"""The processes of one run: who this one is, and the few exchanges they need (over gloo, never over the measured path).

Compute points are handed out by a shared counter, so that a rank with slow points does not hold the others up.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiler.errors import siblings_answer
from profiler.watchdog import LauncherWatch

if TYPE_CHECKING:
    import torch

# Longest wait for a sibling: its last point may take until its own watchdog ends it (a good three minutes).
_SIBLING_WAIT: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlace:
    """This process among the ranks of its run, where the environment says that it ``is_started`` as one; else alone.

    Ranks of one launcher are a node, and neighbours in ``rank``. ``launcher_pid`` is None where nothing is known of it.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    ranks_per_node: int = 1
    is_started: bool = False
    launcher_pid: int | None = None

    @classmethod
    def from_environment(cls) -> "RankPlace":
        """Read torchrun's variables; raises ``UserError`` where they are incomplete."""
        if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in names if name not in os.environ]
        if missing:
            raise UserError(
                f"environment: {', '.join(missing)} not set although RANK or WORLD_SIZE is",
                hint="start the profiler with torchrun, or unset RANK and WORLD_SIZE to run one process",
            )
        words = [name for name in names[:4] if not os.environ[name].isdecimal()]
        if words:
            raise UserError(
                f"environment: {words[0]} is {os.environ[words[0]]!r}, must be a whole number",
                hint="start the profiler with torchrun, or unset RANK and WORLD_SIZE to run one process",
            )
        rank, world_size, local_rank, ranks_per_node = (int(os.environ[name]) for name in names[:4])
        if not 0 <= rank < world_size:
            raise UserError(
                f"environment: RANK is {rank}, must be below WORLD_SIZE {world_size}",
                hint="start every node with the same --nnodes and --nproc-per-node",
            )
        return cls(
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            ranks_per_node=ranks_per_node,
            is_started=True,
            launcher_pid=os.getppid(),
        )


class Ranks:
    """The exchanges of a run; of a rank alone they give back what it brings."""

    def __init__(self, place: RankPlace, device: "torch.device") -> None:
        self.place = place
        self._counter: Any = None
        self._taken: dict[str, int] = {}
        if place.world_size > 1:
            import torch._C._distributed_c10d as torch_store
            import torch.distributed as dist
            from torch.distributed.rendezvous import rendezvous

            with siblings_answer("the ranks did not meet"), LauncherWatch(place.launcher_pid):
                store, rank, world_size = next(rendezvous("env://", timeout=_SIBLING_WAIT))
                backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
                dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_SIBLING_WAIT)
                self._host = dist.new_group(backend="gloo", timeout=_SIBLING_WAIT)
            self._counter = torch_store.PrefixStore("apex-points", store)

    @property
    def is_first(self) -> bool:
        """Whether this rank plans and writes."""
        return self.place.rank == 0

    def share(self, value: Any) -> Any:
        """Return rank 0's ``value`` on every rank."""
        if self._counter is None:
            return value
        import torch.distributed as dist

        box = [value]
        with siblings_answer():
            dist.broadcast_object_list(box, src=0, group=self._host)
        return box[0]

    def collect(self, value: Any) -> Sequence[Any]:
        """Return every rank's ``value`` on every rank, in rank order."""
        if self._counter is None:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.place.world_size
        with siblings_answer():
            dist.all_gather_object(values, value, group=self._host)
        return values

    def require_equal_nodes(self) -> None:
        """Raise ``UserError`` on every rank where nodes differ in their number of ranks: links are told by that.

        A node is what one launcher has started, whatever its host is called.
        """
        sizes = self.collect(self.place.ranks_per_node)
        if len(set(sizes)) > 1:
            found = ", ".join(f"{size} on the node of rank {sizes.index(size)}" for size in dict.fromkeys(sizes))
            raise UserError(
                f"the nodes have different numbers of ranks: {found}",
                hint="start every node with the same --nproc-per-node",
            )

    def take(self, queue: str) -> int:
        """Return the next index of ``queue``: each index goes to one rank."""
        if self._counter is None:
            self._taken[queue] = self._taken.get(queue, -1) + 1
            return self._taken[queue]
        with siblings_answer():
            return int(self._counter.add(queue, 1)) - 1

    def close(self) -> None:
        """Leave the group."""
        if self._counter is not None:
            import torch.distributed as dist

            dist.destroy_process_group()
