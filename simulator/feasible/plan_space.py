"""Every plan of a model on a cluster, and why one cannot run.

A plan uses `dp x pp x attention_dp x tp` devices; with experts, `ep` is 1 (every expert sharded) or all ranks of a
stage (whole experts). Nothing is dropped: an impossible plan is listed too, and refused with its reason when started.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

from cluster_specs.cluster import ClusterSpec
from cluster_specs.device import DeviceSpec
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import SCHEMES
from simulator.model.linear import FP8, WEIGHT_ONLY, WeightFormat, activation_dtype
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What is varied beyond the degrees of parallelism; None in a list keeps the default."""

    weight_dtypes: tuple[str | None, ...] = (None,)
    kv_dtypes: tuple[str | None, ...] = (None,)
    clocks_mhz: tuple[float | None, ...] = (None,)
    power_caps_w: tuple[float | None, ...] = (None,)
    max_num_seqs: tuple[int | None, ...] = (None,)
    max_num_batched_tokens: tuple[int | None, ...] = (None,)
    allow_fewer_devices: bool = False
    pools: bool = False  # prefill and decode on devices of their own, besides plans of one pool


def enumerate_plans(model: ModelSpec, cluster: ClusterSpec, axes: Axes | None = None) -> list[Plan]:
    """Every plan on all devices of ``cluster`` (or on fewer as well), most replicas first; deterministic order."""
    wanted = axes or Axes()
    totals = range(cluster.num_devices, 0, -1) if wanted.allow_fewer_devices else (cluster.num_devices,)
    return [plan for total in totals for plan in plans_on(model, cluster.device, total, wanted)]


def plans_on(model: ModelSpec, device: DeviceSpec, devices: int, axes: Axes) -> Iterator[Plan]:
    """Every plan that uses exactly ``devices`` devices.

    A weight format of None keeps the checkpoint's, or what ``native_cast`` makes of it (the plan then says so).
    Attention-data and expert parallelism are tried for models with experts only.
    """
    cast = native_cast(model, device)
    for dp, pp, attention_dp, tp in _degrees(model, devices):
        ranks = tp * attention_dp
        experts = (1, ranks) if model.has_experts and ranks > 1 else (1,)
        for ep, weights, kv, clock, cap, seqs, tokens in product(
            experts,
            axes.weight_dtypes,
            axes.kv_dtypes,
            axes.clocks_mhz,
            axes.power_caps_w,
            axes.max_num_seqs,
            axes.max_num_batched_tokens,
        ):
            yield Plan(
                dp=dp,
                pp=pp,
                tp=tp,
                attention_dp=attention_dp,
                ep=ep,
                weight_dtype=weights or cast,
                kv_dtype=kv,
                clock_mhz=clock,
                power_cap_w=cap,
                max_num_seqs=seqs,
                max_num_batched_tokens=tokens,
            )


def usual_plan(model: ModelSpec, cluster: ClusterSpec) -> Plan:
    """Return what people choose without a search: tensor parallelism inside each node, a pipeline across nodes.

    It is the heuristic that APEX (arXiv 2411.17651) compares its plans with.
    """
    cast = native_cast(model, cluster.device)
    return Plan(tp=cluster.devices_per_node, pp=cluster.nodes, weight_dtype=cast)


def check_plan(model: ModelSpec, plan: Plan, cluster: ClusterSpec) -> str | None:
    """Why ``plan`` cannot run ``model`` on ``cluster`` whatever the memory; None when it can.

    A tensor-parallel group lies inside one node or fills whole nodes, as engines place ranks.
    """
    if plan.num_devices > cluster.num_devices:
        return f"needs {plan.num_devices} devices, {cluster.name} has {cluster.num_devices}"
    if plan.ep not in {1, plan.stage_ranks}:
        return f"ep is {plan.ep}, must be 1 or tp x attn.dp = {plan.stage_ranks}"
    if cluster.devices_per_node % plan.tp and plan.tp % cluster.devices_per_node:
        return f"tp is {plan.tp}, must divide the {cluster.devices_per_node} devices of a node, or fill whole nodes"
    device = cluster.device
    if plan.clock_mhz is not None and plan.clock_mhz > device.clock.max_mhz:
        return f"clock is {plan.clock_mhz:g} MHz, must be at most {device.clock.max_mhz:g} MHz on {device.name}"
    return _format_refusal(model, plan, device) or model.refusal(plan)


def native_cast(model: ModelSpec, device: DeviceSpec) -> str | None:
    """Return the format the model must run in because ``device`` lacks its own; None when it need not.

    FP8 weights then meet 16-bit activations (vLLM's Marlin kernels before Ada).
    """
    if model.quantisation in FP8 and "fp8" not in device.peak_flop_per_s and "bf16" in device.peak_flop_per_s:
        return WEIGHT_ONLY
    if model.dtype == "bf16" and "bf16" not in device.peak_flop_per_s and model.quantisation is None:
        return "fp16"
    return None


def _format_refusal(model: ModelSpec, plan: Plan, device: DeviceSpec) -> str | None:
    """Why the number formats of ``plan`` do not fit checkpoint or device."""
    stored, asked = model.quantisation, plan.weight_dtype
    if stored is not None and asked not in {None, stored} and not (asked == WEIGHT_ONLY and stored in FP8):
        return f"weight format is {asked}, but the checkpoint of {model.name} is stored as {stored}"
    weights = {WeightFormat(scheme=scheme).under(plan).scheme for scheme in model.schemes}
    for scheme in sorted((weights or {asked or model.dtype}) | {activation_dtype(plan, model.dtype)}):
        unit = SCHEMES[scheme].compute
        if unit not in device.peak_flop_per_s:
            said = f"{scheme} needs {unit} arithmetic, {device.name} has {', '.join(device.peak_flop_per_s)}"
            return f"{said} (w.{WEIGHT_ONLY} keeps the weights)" if native_cast(model, device) == WEIGHT_ONLY else said
    return None


def _degrees(model: ModelSpec, devices: int) -> Iterator[tuple[int, int, int, int]]:
    """(dp, pp, attention_dp, tp) whose product is ``devices``."""
    for dp in reversed(_divisors(devices)):
        for pp in _divisors(devices // dp):
            ranks = devices // dp // pp
            for attention_dp in _divisors(ranks) if model.has_experts else (1,):
                yield dp, pp, attention_dp, ranks // attention_dp


def _divisors(number: int) -> list[int]:
    return [degree for degree in range(1, number + 1) if number % degree == 0]


def smallest_fit(
    model: ModelSpec,
    device: DeviceSpec,
    fits: Callable[[Plan], bool],
    *,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    devices_per_node: int = 8,
    most_devices: int = 1024,
) -> Plan | None:
    """Find the plan on the fewest devices (a power of two) that ``fits``, by its memory for example.

    None when no count up to ``most_devices`` will do, or the device lacks the model's number format.
    """
    cast = weight_dtype or native_cast(model, device)
    count = 1
    while count <= most_devices:
        for tp in reversed(_divisors(min(count, devices_per_node))):
            plan = Plan(tp=tp, pp=count // tp, weight_dtype=cast, kv_dtype=kv_dtype)
            if count % tp or _format_refusal(model, plan, device):
                continue
            for layout in (plan, replace(plan, ep=tp)) if model.has_experts and tp > 1 else (plan,):
                if model.refusal(layout) is None and fits(layout):
                    return layout
        count *= 2
    return None
