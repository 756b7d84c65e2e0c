"""The transfers between cells that a plan implies: none is listed by hand, each follows from the degrees.

Device order inside a replica is tensor axis innermost, then attention-data, then pipeline; that order gives each
group its stride. `message_bytes` is nccl-tests' S: the whole payload of the group.
"""

from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Collective, Ints, Op
from simulator.plan.plan import Plan


def tensor_all_reduce(plan: Plan, m: Ints, width: int, dtype: str) -> list[Op]:
    """Sum the partial results [m, width] of the tensor-parallel ranks."""
    if plan.tp == 1:
        return []
    return [Collective(kind="all_reduce", message_bytes=m * width * _bytes(dtype), ranks=plan.tp, dtype=dtype)]


def tensor_all_gather(plan: Plan, m: Ints, width: int, dtype: str) -> list[Op]:
    """Collect [m, width] from the tensor-parallel ranks, each of which holds 1/tp of it."""
    if plan.tp == 1:
        return []
    return [Collective(kind="all_gather", message_bytes=m * width * _bytes(dtype), ranks=plan.tp, dtype=dtype)]


def _bytes(dtype: str) -> int:
    return int(DTYPE_BYTES[dtype])
