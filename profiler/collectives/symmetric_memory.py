"""torch's all-reduce over symmetric memory: the path of small messages inside a node where vLLM is not installed."""

from collections.abc import Sequence
from typing import Final

import torch

from costmodel.families.collective import CUSTOM_LIMIT_BYTES, SYMMETRIC_ALL_REDUCE
from profiler.backend import Unsupported
from profiler.collectives.kernels import ROOM, Communicator, PreparedCollective, operand_of

_SYMMETRIC_DTYPES: Final = frozenset({"bf16", "fp32"})
_SYMMETRIC_ALIGNMENT: Final = 16  # bytes of a rank's part
# Ranks at most, and the bytes below which one shot is taken.
_ONE_SHOT_BYTES: Final = ((2, CUSTOM_LIMIT_BYTES + 1), (4, 512 << 10), (8, 256 << 10))


class SymmetricMemoryAllReduce:
    """torch's one- and two-shot all-reduce over symmetric memory, where vLLM, whose kernels do the same, is absent.

    One shot reads all peers' messages; two shots scatter the sum and gather it. vLLM takes the first for two ranks, and
    below 512 KiB for four and 256 KiB for more (csrc/custom_all_reduce.cuh). Larger messages than 8 MiB are NCCL's.
    """

    __slots__ = ("_buffers",)

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, ...], torch.Tensor | str] = {}

    @property
    def name(self) -> str:
        """``torch.symm_mem_all_reduce``."""
        return SYMMETRIC_ALL_REDUCE

    def kinds(self) -> Sequence[str]:
        """All-reduce alone."""
        return ("all_reduce",)

    def prepare(self, kind: str, message_bytes: int, dtype: str, communicator: Communicator) -> PreparedCollective:
        """Share a buffer between the group's ranks once; unsupported where they have no peer memory."""
        ranks = len(communicator.ranks)
        if kind != "all_reduce" or dtype not in _SYMMETRIC_DTYPES:
            raise Unsupported(f"{self.name} has no {kind} of {dtype}")
        if message_bytes > CUSTOM_LIMIT_BYTES or message_bytes % (_SYMMETRIC_ALIGNMENT * ranks):
            raise Unsupported(
                f"{self.name} takes up to {CUSTOM_LIMIT_BYTES} bytes, in multiples of {_SYMMETRIC_ALIGNMENT * ranks}"
            )
        whole = operand_of(message_bytes, dtype, communicator.device)
        shared = self._buffer(communicator)
        if isinstance(shared, str):
            raise Unsupported(f"{self.name}: {shared}")
        operand = shared[:message_bytes].view(whole.dtype)
        operand.copy_(whole)
        return symmetric_call(operand, communicator.data.group_name, ranks)

    def _buffer(self, communicator: Communicator) -> torch.Tensor | str:
        """Return the group's shared bytes, or why it has none: the same on every rank, for all of them ask together."""
        if communicator.ranks not in self._buffers:
            from torch.distributed import _symmetric_memory

            try:
                shared = _symmetric_memory.empty(CUSTOM_LIMIT_BYTES, dtype=torch.uint8, device=communicator.device)
                _symmetric_memory.rendezvous(shared, communicator.data)
                self._buffers[communicator.ranks] = shared
            except RuntimeError as error:
                self._buffers[communicator.ranks] = str(error).splitlines()[0]
        return self._buffers[communicator.ranks]


def symmetric_call(operand: torch.Tensor, group_name: str, ranks: int) -> PreparedCollective:
    """Return the all-reduce of an operand in symmetric memory; two shots put the sum in its place, one does not."""
    limit = next((limit for most, limit in _ONE_SHOT_BYTES if ranks <= most), 0)
    if operand.nbytes < limit:
        one_shot = torch.ops.symm_mem.one_shot_all_reduce
        return PreparedCollective(lambda: one_shot(operand, "sum", group_name))
    two_shot = torch.ops.symm_mem.two_shot_all_reduce_
    whole = operand.clone() * 2.0 ** -ROOM[operand.dtype][0]
    operand.copy_(whole)
    return PreparedCollective(lambda: two_shot(operand, "sum", group_name), lambda: operand.copy_(whole))
