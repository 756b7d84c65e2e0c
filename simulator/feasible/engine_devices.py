"""Whether a version of a serving engine has kernels for a device, and for a format of weights and KV on it.

What each version is built for is a table of its profile (``built_for``). A format the device has no arithmetic for is
refused before (`plan_space.check_plan`); here is what an engine has no kernel for.
"""

from typing import Final

from cluster_specs.device import DeviceSpec
from simulator.engine_profiles.engine_profile import EngineProfile

# Compute capability of NVIDIA's architectures.
_CAPABILITY: Final = {"volta": 7.0, "turing": 7.5, "ampere": 8.0, "ada": 8.9, "hopper": 9.0, "blackwell": 10.0}


def device_refusal(
    profile: EngineProfile, device: DeviceSpec, *, scheme: str, kv_dtype: str | None, newest: EngineProfile
) -> str | None:
    """Why that engine version does not run weights of ``scheme`` on ``device``; None when it does.

    ``newest`` is the engine's newest version: formats that not even it runs are refused by what each matrix of a model
    is stored as (`engine_support`), not by ``scheme``, which a plan may ask for and no matrix have.
    """
    engine, built = profile.engine, profile.built_for
    if device.kind == "cpu":
        reason = _elsewhere(engine, built.cpu_formats, "CPUs", scheme)
        if reason is None and kv_dtype == "fp8" and not built.cpu_keeps_fp8_kv:
            return f"{engine} keeps KV in 16 bits on CPUs"
        return reason
    if device.vendor == "nvidia":
        return _on_nvidia(profile, device, scheme, kv_dtype, newest.built_for.nvidia_formats)
    if device.vendor == "amd":
        reason = _elsewhere(engine, built.amd_formats, "AMD devices", scheme)
        if reason is None and scheme == "mxfp4" and built.amd_mxfp4_needs_cdna4 and device.architecture != "cdna4":
            return f"{engine} runs mxfp4 on AMD devices from CDNA4 on, {device.name} is {device.architecture}"
        if reason is None and kv_dtype == "fp8" and "fp8" not in device.peak_flop_per_s:
            return f"{engine} keeps KV in fp8 on AMD devices with fp8 arithmetic, which {device.name} lacks"
        return reason
    return f"{engine} is not known to run on {device.vendor} devices such as {device.name}"


def _on_nvidia(
    profile: EngineProfile, device: DeviceSpec, scheme: str, kv_dtype: str | None, newest_formats: list[str]
) -> str | None:
    capability = _CAPABILITY.get(device.architecture)
    if capability is None:  # an architecture of a user's own file: nothing is known against it
        return None
    engine, built = profile.engine, profile.built_for
    version = engine if profile.release is None else f"{engine} {profile.release[0]}.{profile.release[1]}"
    has = f"{device.name} has {capability}"
    if capability >= built.below_capability:
        return f"{version} has no kernels for {device.architecture} devices such as {device.name}"
    if scheme in newest_formats and scheme not in built.nvidia_formats:
        return f"{version} does not run {scheme} weights"
    if capability < built.least_capability:
        return f"{engine} needs compute capability {built.least_capability}, {has}"
    least = built.least_by_format.get(scheme, 0.0)
    if capability < least:
        return f"{engine} runs {scheme} weights from compute capability {least} on, {has}"
    if kv_dtype == "fp8" and capability < built.least_fp8_kv:
        return f"{engine} keeps KV in fp8 from compute capability {built.least_fp8_kv} on, {has}"
    return None


def _elsewhere(engine: str, formats: list[str], devices: str, scheme: str) -> str | None:
    if not formats:
        return f"{engine} does not run on {devices}"
    return None if scheme in formats else f"{engine} has no kernel for {scheme} weights on {devices}"
