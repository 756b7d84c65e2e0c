"""The kernels of an engine as measurements name it: ``vllm-0.24.0``, ``trtllm-1.3.0rc20``, or without a version."""

from typing import Final

from cluster_specs.device import DeviceSpec
from costmodel.families.kernels import EngineKernels
from simulator.engine_profiles.bundled_profiles import bundled_profiles, profile_for
from simulator.engine_profiles.engine_profile import load_profile

# What importers call an engine whose kernels were measured -> what profiles call it.
ENGINE_OF_FRAMEWORK: Final = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm"}
_NEWEST: Final = "999999.0"


def kernels_of_engine(framework: str, device: DeviceSpec) -> EngineKernels:
    """Return what the profile of an engine version says of its kernels; nothing where no profile is of that engine.

    An engine without a version is its newest profile's, a version without a profile the nearest older one's.
    """
    name, _, version = framework.partition("-")
    profile = profile_for(f"{ENGINE_OF_FRAMEWORK.get(name, name)}-{version or _NEWEST}")
    stated = load_profile(profile).kernel_families if profile in bundled_profiles() else None
    return EngineKernels(engine=framework, families={} if stated is None else stated.on(device))
