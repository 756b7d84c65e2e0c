"""Every plan of two pools on a cluster: which devices compute prompts, which decode, and how each pool is laid out.

The devices are parted at every count inside one node, and at node borders on a cluster of several, where engines place
pools. Both pools load one checkpoint, so weight and KV formats are the same; clocks may differ. A layout that cannot
start as a pool rules out all pairs it is part of, so it is refused once and never paired.
"""

from itertools import product

from cluster_specs.errors import UserError
from simulator.feasible.plan_space import Axes, plans_on
from simulator.pools.disaggregation import PoolStarts, decode_refusal, pools_refusal, prefill_serving, stages_refusal
from simulator.pools.shared_sides import SharedSides
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.workload.workload import Workload


def enumerate_pools(serving: Serving, workload: Workload, axes: Axes) -> tuple[list[PoolStarts], list[Refusal]]:
    """StartedPlan each layout once and pair them; return the pairs, and the layouts that cannot start.

    All devices are used, or with ``axes.allow_fewer_devices`` fewer as well. Raises ``UserError`` where no pair of
    pools can be simulated.
    """
    reason = pools_refusal(serving, workload)
    if reason is not None:
        raise UserError(f"pools cannot be searched: {reason}", hint="search without --pools")
    cluster = serving.cluster
    unit = 1 if cluster.nodes == 1 else cluster.devices_per_node
    sizes = range(unit, cluster.num_devices, unit)
    first_server = prefill_serving(serving)
    firsts: dict[int, list[StartedPlan]] = {devices: [] for devices in sizes}
    seconds: dict[int, list[StartedPlan]] = {devices: [] for devices in sizes}
    refused = []
    for devices in sizes:
        for plan in plans_on(serving.model, cluster.device, devices, axes):
            start = serving.start(plan, workload)
            if isinstance(start, Refusal):
                refused.append(Refusal(plan=plan, reason=f"as a pool: {start.reason}", by=start.by))
                continue
            reason = stages_refusal(serving, plan)
            if reason is not None:
                refused.append(Refusal(plan=plan, reason=f"as a pool: {reason}"))
                continue
            first_start = start if first_server is serving else first_server.start(plan, workload)
            if isinstance(first_start, Refusal):
                refused.append(Refusal(plan=plan, reason=f"as a prefill pool: {first_start.reason}", by=first_start.by))
            else:
                firsts[devices].append(first_start)
            reason = decode_refusal(serving, plan)
            if reason is not None:
                refused.append(Refusal(plan=plan, reason=f"as a decode pool: {reason}"))
            else:
                seconds[devices].append(start)
    shared = SharedSides()
    pairs = [
        PoolStarts(prefill=prefill, decode=decode, shared=shared)
        for first, second in product(sizes, sizes)
        if first + second == cluster.num_devices or (axes.allow_fewer_devices and first + second < cluster.num_devices)
        for prefill, decode in product(firsts[first], seconds[second])
        if (prefill.plan.weight_dtype, prefill.plan.kv_dtype) == (decode.plan.weight_dtype, decode.plan.kv_dtype)
    ]
    return pairs, refused
