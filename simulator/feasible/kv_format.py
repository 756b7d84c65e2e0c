"""The KV cache's format and why: the plan's, the checkpoint's where the engine takes it, else the activations'.

Source of what engines take is their profile (``checkpoint_kv``).
"""

from dataclasses import replace
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.feasible.engine_layout import laid_out
from simulator.model.linear import activation_dtype
from simulator.model.spec import ModelSpec
from simulator.plan.plan import KV_DTYPES, Plan

_OVERRULE: Final = "; say kv.bf16 or kv.fp8 in the plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvFormat:
    """The format of the KV cache and where it comes from; ``refusal`` where the engine's own is not modelled."""

    dtype: str
    why: str
    refusal: str | None = None


def kv_format(model: ModelSpec, plan: Plan, profile: EngineProfile) -> KvFormat:
    """Decide the format of the KV cache of ``plan`` under an engine version."""
    own, stated = activation_dtype(plan, model.dtype), model.checkpoint_kv
    if plan.kv_dtype is not None:
        refusal = None
        if stated is not None and stated.tool in profile.checkpoint_kv.forced and plan.kv_dtype != stated.dtype:
            refusal = f"{profile.name} keeps KV in {stated.dtype}, whatever is asked for: the checkpoint's {stated.key}"
        return KvFormat(dtype=plan.kv_dtype, why="the plan names it", refusal=refusal)
    if stated is None:
        return KvFormat(dtype=own, why="the activations' format: neither plan nor checkpoint names another")
    asked = f"the checkpoint asks for {stated.dtype} ({stated.key})"
    taken = profile.checkpoint_kv
    if stated.tool == "modelopt" and taken.needs_producer and not stated.is_named:
        return KvFormat(
            dtype=own,
            why=f"{asked}, but names no producer: {profile.name} does not take it for ModelOpt's",
        )
    by_tool = {"modelopt": taken.modelopt, "compressed-tensors": taken.compressed_tensors}
    if stated.dtype not in by_tool.get(stated.tool, []):
        return KvFormat(dtype=own, why=f"{asked}, which {profile.name} does not take from a checkpoint")
    if stated.dtype not in KV_DTYPES:
        return KvFormat(dtype=own, why=asked, refusal=f"{asked}, which is not modelled{_OVERRULE}")
    return KvFormat(dtype=stated.dtype, why=f"{asked}, which {profile.name} takes from it")


def served(model: ModelSpec, plan: Plan, profile: EngineProfile) -> Plan:
    """Return ``plan`` with what it leaves to the engine spelled out: layout, KV format, who knows the scales of FP8."""
    chosen = kv_format(model, plan, profile).dtype
    kv = plan.kv_dtype if chosen == activation_dtype(plan, model.dtype) else chosen
    is_static = plan.weight_dtype == "fp8" and profile.kernels.fp8_inputs == "static"
    return replace(laid_out(model, plan, profile.layouts), kv_dtype=kv, has_static_inputs=is_static)
