"""Which number formats of a plan are coarser than its checkpoint's, so that the model answers differently."""

from dataclasses import replace

from cluster_specs.device import DeviceSpec
from costmodel.ops.number_formats import DTYPE_BYTES
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.feasible.kv_format import kv_format
from simulator.feasible.plan_space import native_cast
from simulator.model.linear import FP8, WEIGHT_ONLY
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan
from simulator.plan.pool_plan import PoolPlan


def changed_formats(
    model: ModelSpec, layout: Plan | PoolPlan, device: DeviceSpec, profile: EngineProfile
) -> tuple[str, ...]:
    """Name the tensors that ``layout`` rounds further than checkpoint and engine do of themselves; empty for none.

    Formats that are wider, and the one that a device without the checkpoint's arithmetic leaves no choice about, change
    nothing that a plan decides.
    """
    sides = (layout.prefill, layout.decode) if isinstance(layout, PoolPlan) else (layout,)
    named = [name for plan in sides for name in (_weights(model, plan, device), _kv(model, plan, profile))]
    return tuple(dict.fromkeys(name for name in named if name is not None))


def _weights(model: ModelSpec, plan: Plan, device: DeviceSpec) -> str | None:
    asked, stored = plan.weight_dtype, model.quantisation
    if asked in {None, stored or model.dtype, native_cast(model, device), "fp32"}:
        return None
    return None if asked == WEIGHT_ONLY and stored in FP8 else f"{asked} weights"


def _kv(model: ModelSpec, plan: Plan, profile: EngineProfile) -> str | None:
    if plan.kv_dtype is None:
        return None
    own = kv_format(model, replace(plan, kv_dtype=None), profile).dtype
    # Formats of as many bits are told apart: bf16 and fp16 round differently.
    is_coarser = DTYPE_BYTES[plan.kv_dtype] <= DTYPE_BYTES[own] and plan.kv_dtype != own
    return f"{plan.kv_dtype} KV cache" if is_coarser else None
