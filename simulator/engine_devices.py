"""Which devices a serving engine runs on, and which number formats it has kernels for on them.

Facts of vLLM 0.33 and 0.6 (kernel registry by platform, least compute capability of each quantisation, attention
backends), SGLang 0.5.10 (``get_min_capability``, its documented table of quantisation by platform) and TensorRT-LLM 1.0
(support matrix: NVIDIA from Ampere on). A format the device has no arithmetic for is refused before
(`plan_space.check_plan`); here is what an engine has no kernel for.
"""

from typing import Final

from cluster_specs.device import DeviceSpec
from simulator.model.linear import UNQUANTISED

Version = tuple[int, int]

# Compute capability of NVIDIA's architectures, times ten.
_CAPABILITY: Final = {"volta": 70, "turing": 75, "ampere": 80, "ada": 89, "hopper": 90, "blackwell": 100}
# The least an engine starts on, then what it needs for a format of weights.
_LEAST: Final = {"vllm": 75, "sglang": 75, "tensorrt-llm": 80}
_LEAST_BY_FORMAT: Final[dict[str, dict[str, int]]] = {
    "vllm": {"mxfp4": 80, "w4a8": 90},
    "sglang": {"fp8": 80, "fp8_block": 80, "mxfp4": 80, "nvfp4": 100},
    "tensorrt-llm": {"fp8": 89, "fp8_block": 90, "w4a8": 89, "mxfp4": 90, "nvfp4": 100},
}
_LEAST_FP8_KV: Final = {"vllm": 80, "sglang": 80, "tensorrt-llm": 89}
# Wheels of CUDA 12.9 and later leave Volta out; those before are built for devices up to Hopper.
_WITHOUT_VOLTA: Final[Version] = (0, 21)
_WITH_BLACKWELL: Final[Version] = (0, 8)
_V0_FORMATS: Final = frozenset({"fp8", "w8a8", "w8a16", "w4a16", *UNQUANTISED})
# What an engine has kernels for elsewhere: by vendor of a GPU, and on CPUs.
_AMD_FORMATS: Final = {
    "vllm": frozenset({"fp8", "fp8_block", "w8a8", "w4a16", "mxfp4", *UNQUANTISED}),
    "sglang": frozenset({"fp8", "fp8_block", "w8a8", "w4a16", "mxfp4", *UNQUANTISED}),
}
_MXFP4_NEEDS_CDNA4: Final = frozenset({"sglang"})
_CPU_FORMATS: Final = {
    "vllm": frozenset({"fp8", "fp8_block", "w8a8", "w4a16", "mxfp4", *UNQUANTISED}),
    "sglang": frozenset({"fp8", "fp8_block", "w8a8", "w4a16", *UNQUANTISED}),
}


def device_refusal(
    engine: str, device: DeviceSpec, *, scheme: str, kv_dtype: str | None, version: Version | None = None
) -> str | None:
    """Why ``engine`` (today's, or ``version``) does not run weights of ``scheme`` on ``device``; None when it does."""
    if device.kind == "cpu":
        return _elsewhere(engine, _CPU_FORMATS, "CPUs", scheme) or _fp8_kv_on_cpu(engine, kv_dtype)
    if device.vendor == "nvidia":
        return _on_nvidia(engine, device, scheme, kv_dtype, version)
    if device.vendor == "amd":
        reason = _elsewhere(engine, _AMD_FORMATS, "AMD devices", scheme)
        if reason is None and scheme == "mxfp4" and engine in _MXFP4_NEEDS_CDNA4 and device.architecture != "cdna4":
            return f"{engine} runs mxfp4 on AMD devices from CDNA4 on, {device.name} is {device.architecture}"
        if reason is None and kv_dtype == "fp8" and "fp8" not in device.peak_flop_per_s:
            return f"{engine} keeps KV in fp8 on AMD devices with fp8 arithmetic, which {device.name} lacks"
        return reason
    return f"{engine} is not known to run on {device.vendor} devices such as {device.name}"


def _on_nvidia(
    engine: str, device: DeviceSpec, scheme: str, kv_dtype: str | None, version: Version | None
) -> str | None:
    capability = _CAPABILITY.get(device.architecture)
    if capability is None:  # an architecture of a user's own file: nothing is known against it
        return None
    least, formats = _LEAST[engine], _LEAST_BY_FORMAT[engine]
    if engine == "vllm" and version is not None:
        least = least if version >= _WITHOUT_VOLTA else 70
        if version < _WITH_BLACKWELL and capability >= 100:
            return f"vllm {_dotted(version)} has no kernels for {device.architecture} devices such as {device.name}"
        if version < _WITH_BLACKWELL and scheme not in _V0_FORMATS:
            return f"vllm {_dotted(version)} does not run {scheme} weights"
    if capability < least:
        return f"{engine} needs {_capability(least)}, {_has(device)}"
    if capability < formats.get(scheme, 0):
        return f"{engine} runs {scheme} weights from {_capability(formats[scheme])} on, {_has(device)}"
    if kv_dtype == "fp8" and capability < _LEAST_FP8_KV[engine]:
        return f"{engine} keeps KV in fp8 from {_capability(_LEAST_FP8_KV[engine])} on, {_has(device)}"
    return None


def _elsewhere(engine: str, formats: dict[str, frozenset[str]], devices: str, scheme: str) -> str | None:
    if engine not in formats:
        return f"{engine} does not run on {devices}"
    return None if scheme in formats[engine] else f"{engine} has no kernel for {scheme} weights on {devices}"


def _fp8_kv_on_cpu(engine: str, kv_dtype: str | None) -> str | None:
    return f"{engine} keeps KV in 16 bits on CPUs" if engine == "sglang" and kv_dtype == "fp8" else None


def _capability(tenths: int) -> str:
    return f"compute capability {tenths // 10}.{tenths % 10}"


def _has(device: DeviceSpec) -> str:
    tenths = _CAPABILITY[device.architecture]
    return f"{device.name} has {tenths // 10}.{tenths % 10}"


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
