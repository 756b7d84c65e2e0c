"""Which serving engines can run a plan today, and why not: the architectures, formats and layouts each implements.

Formats and layouts are those of an engine's profile (``built_for``, ``layouts``).
"""

from typing import Final

from cluster_specs.device import DeviceSpec
from simulator.engine_profiles.bundled_profiles import newest_bundled
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.feasible.engine_architectures import SERVED, SINCE
from simulator.feasible.engine_devices import device_refusal
from simulator.feasible.engine_layout import layout_refusal
from simulator.model.linear import FP8, UNQUANTISED, WEIGHT_ONLY, WeightFormat, activation_dtype
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan

ENGINES: Final = ("vllm", "sglang", "tensorrt-llm")


def engines_for(
    model: ModelSpec, plan: Plan, device: DeviceSpec, profile: EngineProfile | None = None
) -> dict[str, str | None]:
    """For each engine None, or why it cannot run ``model`` laid out as ``plan`` on such devices.

    The engine of ``profile`` is taken in that version, the others as they are in their newest bundled one.
    """
    return {engine: _why_not(engine, model, plan, device, profile) for engine in ENGINES}


def _why_not(
    engine: str, model: ModelSpec, plan: Plan, device: DeviceSpec, profile: EngineProfile | None
) -> str | None:
    newest = newest_profile(engine)
    taken = profile if profile is not None and profile.engine == engine else newest
    scheme = plan.weight_dtype or model.quantisation or model.dtype
    return (
        _refusal(newest, model, plan)
        or layout_refusal(engine, taken.layouts, model, plan)
        or _too_old(engine, model, profile)
        or device_refusal(taken, device, scheme=scheme, kv_dtype=plan.kv_dtype, newest=newest)
    )


def newest_profile(engine: str) -> EngineProfile:
    """Return the bundled profile of the newest version of ``engine``, one of ``ENGINES``."""
    name = newest_bundled(engine)
    assert name is not None
    return load_profile(name)


def converted_checkpoint(model: ModelSpec, plan: Plan) -> str | None:
    """Return the format ``plan`` needs a converted checkpoint for; None when the engine makes it while loading."""
    if plan.weight_dtype in {None, "fp8", *UNQUANTISED} or plan.weight_dtype == model.quantisation:
        return None
    return None if plan.weight_dtype == WEIGHT_ONLY and model.quantisation in FP8 else plan.weight_dtype


def _too_old(engine: str, model: ModelSpec, profile: EngineProfile | None) -> str | None:
    """Why the version of ``profile`` does not serve what later ones do."""
    if profile is None or profile.engine != engine or profile.release is None:
        return None
    kinds = (model.architecture, f"{model.architecture} with experts") if model.has_experts else (model.architecture,)
    for kind in kinds:
        first = SINCE.get(engine, {}).get(kind)
        if first is not None and profile.release < first:
            return f"{profile.name} does not serve {kind} models, {engine} {first[0]}.{first[1]} is the first that does"
    return None


def _refusal(newest: EngineProfile, model: ModelSpec, plan: Plan) -> str | None:
    engine, formats = newest.engine, newest.built_for.nvidia_formats
    if model.architecture not in SERVED[engine]:
        return f"{engine} does not serve {model.architecture} models"
    schemes = {WeightFormat(scheme=scheme).under(plan).scheme for scheme in model.schemes}
    for scheme in sorted(schemes or {plan.weight_dtype or model.dtype}):
        if scheme not in formats:
            return f"{engine} does not run {scheme} weights"
    if plan.kv_dtype not in {None, "fp8", activation_dtype(plan, model.dtype)}:
        return f"{engine} keeps KV in the activations' format or fp8, not {plan.kv_dtype}"
    return None
