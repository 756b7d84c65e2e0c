"""Which axis of a plan lies on the nearest links: strides of groups where it is not the tensor axis.

Cells write their transfers for the order that engines number ranks in: tensor rank first, then attention rank, then
stage. Where devices are handed to the ranks in another order (`near.pp`, `near.attn.dp`), the axis named is the
innermost, and the others keep their order around it.
"""

from dataclasses import replace

from costmodel.ops.op_types import Collective, Op
from simulator.plan.plan import Plan


def placed(plan: Plan, ops: list[Op]) -> list[Op]:
    """Return ``ops`` with the strides that their groups have under ``plan``'s placement."""
    if plan.near == "tp":
        return ops
    return [replace(op, group_stride=_stride(plan, op)) if isinstance(op, Collective) else op for op in ops]


def _stride(plan: Plan, op: Collective) -> int:
    """Distance of neighbouring ranks of a group, from that in the engines' own order."""
    between_stages = op.kind == "send_recv"
    if plan.near == "pp":
        return 1 if between_stages else op.group_stride * plan.pp
    if between_stages or op.ranks * op.group_stride > plan.tp * plan.attention_dp or op.ranks == plan.stage_ranks:
        return op.group_stride
    if op.group_stride % plan.tp == 0:
        return op.group_stride // plan.tp
    return op.group_stride * plan.attention_dp


def device_order(plan: Plan) -> list[int]:
    """Return the device of each rank of one replica, in the engines' order of ranks."""
    stages, attention, tensor = range(plan.pp), range(plan.attention_dp), range(plan.tp)
    ranks = [(stage, data, shard) for stage in stages for data in attention for shard in tensor]
    if plan.near == "pp":
        return [(data * plan.tp + shard) * plan.pp + stage for stage, data, shard in ranks]
    if plan.near == "attn.dp":
        return [(stage * plan.tp + shard) * plan.attention_dp + data for stage, data, shard in ranks]
    return list(range(plan.replica_devices))
