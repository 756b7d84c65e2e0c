"""Every plan of a model on a cluster, and why one cannot run.

A plan uses `dp x pp x attention_dp x tp` devices. With experts, `ep` is 1 (every expert sharded), all ranks of a stage
(whole experts), or what lies between where the engine has it. Axes that no default search needs are asked for by name
(`MORE_AXES`). Nothing is dropped: an impossible plan is listed too, and refused with its reason when started.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Final

from cluster_specs.cluster import ClusterSpec
from cluster_specs.device import DeviceSpec
from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import SCHEMES
from simulator.engine_profiles.layouts import NO_LAYOUTS, Layouts
from simulator.feasible.engine_layout import own_mlp_copies, runs_dense_attention_dp
from simulator.model.linear import FP8, WEIGHT_ONLY, WeightFormat, activation_dtype
from simulator.model.spec import ModelSpec, stage_layers
from simulator.plan.plan import Plan, contradiction, divisors
from simulator.plan.refused import Refused

MORE_AXES: Final = {
    "cells": "other degrees for feed-forwards than for attention: copies of either in a stage, as in the APEX paper",
    "dcp": "tensor ranks that hold the same keys share the cached tokens out (decode context parallelism)",
    "placement": "stages or attention ranks on the nearest links instead of tensor ranks, on one host",
    "redundant": "one expert more on each rank of whole experts, moved about by load",
    "stages": "pipeline stages of uneven lengths: one or two layers fewer in the last stage, or in the first and last",
}


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
    more: frozenset[str] = frozenset()  # of ``MORE_AXES``


def enumerate_plans(
    model: ModelSpec, cluster: ClusterSpec, axes: Axes | None = None, layouts: Layouts = NO_LAYOUTS
) -> list[Plan]:
    """Every plan on all devices of ``cluster`` (or on fewer as well), most replicas first; deterministic order."""
    wanted = axes or Axes()
    totals = range(cluster.num_devices, 0, -1) if wanted.allow_fewer_devices else (cluster.num_devices,)
    return [plan for total in totals for plan in plans_on(model, cluster.device, total, wanted, layouts)]


def check_axes(model: ModelSpec, cluster: ClusterSpec, axes: Axes, layouts: Layouts, engine: str) -> None:
    """Refuse an axis that was asked for and adds no plan; raises ``UserError`` with the axes that would."""
    plain = replace(axes, more=frozenset())
    fewest = len(enumerate_plans(model, cluster, plain, layouts))
    acts = {
        name: len(enumerate_plans(model, cluster, replace(plain, more=frozenset({name})), layouts)) > fewest
        for name in (MORE_AXES if axes.more else ())
    }
    for name in sorted(axes.more):
        if not acts[name]:
            others = ", ".join(other for other in acts if acts[other])
            raise UserError(
                f"--axes {name} cannot act: no plan of {model.name} on {cluster.name} under {engine} has it",
                hint=f"leave it out; these would act: {others}"
                if others
                else "leave it out, no other would act either",
            )


def plans_on(
    model: ModelSpec, device: DeviceSpec, devices: int, axes: Axes, layouts: Layouts = NO_LAYOUTS
) -> Iterator[Plan]:
    """Every plan that uses exactly ``devices`` devices; ``layouts`` says which of them the engine may have.

    A weight format of None keeps the checkpoint's, or what ``native_cast`` makes of it (the plan then says so).
    """
    cast = native_cast(model, device)
    for layout in _layouts_on(model, devices, axes, layouts):
        for weights, kv, clock, cap, seqs, tokens in product(
            axes.weight_dtypes,
            axes.kv_dtypes,
            axes.clocks_mhz,
            axes.power_caps_w,
            axes.max_num_seqs,
            axes.max_num_batched_tokens,
        ):
            yield replace(
                layout,
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


def check_plan(model: ModelSpec, plan: Plan, cluster: ClusterSpec) -> Refused | None:
    """Why ``plan`` cannot run ``model`` on ``cluster`` whatever the memory; None when it can.

    A tensor-parallel group lies inside one node or fills whole nodes, as engines place ranks.
    """
    if plan.num_devices > cluster.num_devices:
        return Refused(f"needs {plan.num_devices} devices, {cluster.name} has {cluster.num_devices}", "device")
    contradicts = contradiction(plan)
    if contradicts is not None:
        return Refused(contradicts[0], "model")
    spans = plan.tp * {"tp": 1, "pp": plan.pp, "attn.dp": plan.attention_dp}[plan.near]
    if plan.near != "tp" and cluster.devices_per_node % spans and spans % cluster.devices_per_node:
        reason = f"near.{plan.near} spreads a tensor group over {spans} devices, which must fit the nodes evenly"
        return Refused(reason, "device")
    if cluster.devices_per_node % plan.tp and plan.tp % cluster.devices_per_node:
        reason = f"tp is {plan.tp}, must divide the {cluster.devices_per_node} devices of a node, or fill whole nodes"
        return Refused(reason, "device")
    device = cluster.device
    if plan.clock_mhz is not None and plan.clock_mhz > device.clock.max_mhz:
        reason = f"clock is {plan.clock_mhz:g} MHz, must be at most {device.clock.max_mhz:g} MHz on {device.name}"
        return Refused(reason, "device")
    format_refusal = _format_refusal(model, plan, device)
    if format_refusal is not None:
        return Refused(format_refusal, "device")
    reason_of_model = model.refusal(plan)
    return None if reason_of_model is None else Refused(reason_of_model, "model")


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


def _layouts_on(model: ModelSpec, devices: int, axes: Axes, layouts: Layouts) -> Iterator[Plan]:
    """Layouts of exactly so many devices, nothing else about them stated."""
    for dp in reversed(divisors(devices)):
        for pp in divisors(devices // dp):
            ranks = devices // dp // pp
            for attention_dp in _attention_degrees(model, ranks, axes, layouts):
                whole = Plan(dp=dp, pp=pp, tp=ranks // attention_dp, attention_dp=attention_dp)
                for part in _shared_contexts(model, whole, axes, layouts):
                    yield part
                    if "stages" in axes.more:
                        yield from (replace(part, stage_layers=layers) for layers in _uneven(model, pp, layouts))
                    if "redundant" in axes.more and layouts.redundant_experts and part.ep > 1:
                        yield replace(part, redundant_experts=part.ep)
                    if "placement" in axes.more:
                        yield from _other_placements(part)


def _attention_degrees(model: ModelSpec, ranks: int, axes: Axes, layouts: Layouts) -> list[int]:
    """Return the degrees of attention data parallelism; of a dense model one unless more is asked for."""
    if not (model.has_experts or runs_dense_attention_dp(layouts, model) or "cells" in axes.more):
        return [1]
    return divisors(ranks)


def _feed_forwards(model: ModelSpec, plan: Plan, axes: Axes, layouts: Layouts) -> Iterator[Plan]:
    """Ways to lay out what follows attention: experts of a mixture, or the copies of a dense feed-forward.

    Of several copies of attention and of feed-forwards, one is one: both together are replicas of the whole.
    """
    ranks = plan.stage_ranks
    if not model.has_experts:
        yield from (replace(plan, mlp_dp=copies) for copies in _dense_copies(plan, axes, layouts))
        return
    for copies in divisors(ranks) if "cells" in axes.more and plan.attention_dp == 1 else (1,):
        spans = ranks // copies
        grid = divisors(spans) if layouts.expert_grids and copies == 1 else dict.fromkeys((1, spans))
        yield from (replace(plan, ep=ep, moe_dp=copies) for ep in grid)


def _shared_contexts(model: ModelSpec, plan: Plan, axes: Axes, layouts: Layouts) -> Iterator[Plan]:
    """Ways to lay out a stage, each also with the cached tokens shared out wherever ranks hold copies of them."""
    for part in _feed_forwards(model, plan, axes, layouts):
        yield part
        if "dcp" in axes.more and layouts.decode_context:
            shares = (replace(part, dcp=dcp) for dcp in divisors(plan.tp)[1:])
            yield from (layout for layout in shares if model.refusal(replace(layout, ep=1, moe_dp=1)) is None)


def _other_placements(plan: Plan) -> Iterator[Plan]:
    """Hand the nearest devices to another axis than the tensor axis, where both have several ranks."""
    if plan.tp > 1 and plan.pp > 1:
        yield replace(plan, near="pp")
    if plan.tp > 1 and plan.attention_dp > 1:
        yield replace(plan, near="attn.dp")


def _dense_copies(plan: Plan, axes: Axes, layouts: Layouts) -> list[int | None]:
    """Return the copies of the feed-forwards of a dense model; None where they are the engine's own."""
    if "cells" not in axes.more:
        return [None]
    copies = divisors(plan.stage_ranks) if plan.attention_dp == 1 else [1]
    own = own_mlp_copies(plan, layouts)
    return [None if number == own else number for number in copies]


def _uneven(model: ModelSpec, pp: int, layouts: Layouts) -> Iterator[tuple[int, ...]]:
    """Stages with fewer layers beside the head, or beside the embedding and the head, than the engine gives them."""
    if not 1 < pp <= model.num_layers:
        return
    own = stage_layers(model.num_layers, pp, layouts.leftover_layers)
    seen = {own}
    for ends in ((pp - 1,), (0, pp - 1)):
        takers = [stage for stage in range(pp) if stage not in ends]
        for fewer in (1, 2):
            stages = list(own)
            for stage in ends:
                stages[stage] -= fewer
            for index in range(fewer * len(ends)):
                stages[takers[-1 - index % len(takers)] if takers else 0] += 1
            if min(stages) > 0 and tuple(stages) not in seen:
                seen.add(tuple(stages))
                yield tuple(stages)


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
        for tp in reversed(divisors(min(count, devices_per_node))):
            plan = Plan(tp=tp, pp=count // tp, weight_dtype=cast, kv_dtype=kv_dtype)
            if count % tp or _format_refusal(model, plan, device):
                continue
            for layout in (plan, replace(plan, ep=tp)) if model.has_experts and tp > 1 else (plan,):
                if model.refusal(layout) is None and fits(layout):
                    return layout
        count *= 2
    return None
