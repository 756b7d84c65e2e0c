"""The KV-cache format a checkpoint states: ModelOpt's ``kv_cache_quant_algo``, or a ``kv_cache_scheme``.

Whether an engine takes it is a fact of its version (``checkpoint_kv`` of its profile); ``simulator.feasible.kv_format``
decides.
"""

from typing import Literal

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.hf_config import HfConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointKv:
    """A format (``fp8``, ``nvfp4``, ``int8`` ...), the tool that wrote it and the key it stands under."""

    dtype: str
    tool: Literal["modelopt", "compressed-tensors", "fp8"]
    key: str
    is_named: bool = True  # the file says which tool produced it


def read_checkpoint_kv(config: HfConfig) -> CheckpointKv | None:
    """Read what ``quantization_config`` says of the KV cache; None where it says nothing.

    Raises ``UserError`` for a ``kv_cache_scheme`` of compressed-tensors that no engine runs (all run 8-bit floats).
    """
    section = quantisation_section(config)
    if section is None:
        return None
    method = method_of(section)
    if method == "compressed-tensors":
        scheme = section.section("kv_cache_scheme")
        if scheme is None:
            return None
        if (scheme.text("type", "float"), scheme.integer("num_bits", 8)) != ("float", 8):
            raise section.fault("kv_cache_scheme", "8-bit floats or null, as engines require")
        return CheckpointKv(dtype="fp8", tool="compressed-tensors", key="kv_cache_scheme")
    if method == "fp8" and "kv_cache_scheme" in section:  # AutoFP8's; no engine reads it
        return CheckpointKv(dtype="fp8", tool="fp8", key="kv_cache_scheme")
    if method != "modelopt":
        return None
    key = "kv_cache_scheme" if "kv_cache_scheme" in section else "kv_cache_quant_algo"
    if key not in section:
        return None
    if isinstance(section.raw(key), dict):
        scheme = section.section(key)
        assert scheme is not None
        dtype = _scheme_dtype(scheme)
    else:
        dtype = section.text(key).lower()
    producer = section.section("producer") if isinstance(section.raw("producer"), dict) else None
    is_named = "quant_method" in section or (producer is not None and producer.raw("name") == "modelopt")
    return CheckpointKv(dtype=dtype, tool="modelopt", key=key, is_named=is_named)


def quantisation_section(config: HfConfig) -> HfConfig | None:
    """Return the quantisation of a config: its own, that of its text decoder, or ``compression_config``.

    Engines look in this order (vLLM ``model_arch_config_convertor.py``).
    """
    own = config.section("quantization_config") or config.section("compression_config")
    if own is not None or "text_config" not in config:
        return own
    text = config.section("text_config")
    return None if text is None else quantisation_section(text)


def method_of(section: HfConfig) -> str:
    """Return ``quant_method`` under one spelling; ModelOpt's own file has none and says ``quant_algo`` instead."""
    method = section.text("quant_method", "modelopt" if "quant_algo" in section else "").lower()
    method = method.replace("compressed_tensors", "compressed-tensors")
    return "modelopt" if method.startswith("modelopt") else method


def _scheme_dtype(scheme: HfConfig) -> str:
    kind, bits = scheme.text("type", "int"), scheme.integer("num_bits")
    if (kind, bits) == ("float", 8):
        return "fp8" if scheme.raw("dynamic") is False else "dynamic fp8"
    return "nvfp4" if (kind, bits) == ("float", 4) else f"{kind}{bits}"
