"""What each quantisation tool writes into a checkpoint's config: formats, and the matrices they are for.

fp8 and fbgemm_fp8, ModelOpt (one algorithm, or MIXED_PRECISION with one per layer), mxfp4, AWQ under both spellings of
its keys, GPTQ with module lists and ``dynamic`` rules, and compressed-tensors with several groups. Every key is
read, or known to say nothing of what is stored or run, or refused by name: none is passed over. Other methods
(bitsandbytes, torchao, quark, auto-round, gguf, hqq, experts_int8 ...) are refused by name.
Sources: vLLM 0.33 ``model_executor/layers/quantization``, GPTQModel, AutoAWQ, compressed-tensors.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from simulator.model.checkpoint_kv import method_of
from simulator.model.hf_config import HfConfig
from simulator.model.linear import FP8_BLOCK, WeightFormat
from simulator.model.quantisation.groups import read_compressed_tensors
from simulator.model.quantisation.integer import read_awq, read_gptq
from simulator.model.quantisation.rules import (
    UNQUANTISED_HINT,
    Formats,
    Rule,
    head_rule,
    left_alone,
    matcher,
    refuse_unknown,
    uniform,
)


def read_formats(section: HfConfig) -> Formats:
    """Read one quantisation section; raises ``UserError`` naming key, value and limit for what is not understood."""
    method = _ALIASES.get(method_of(section), method_of(section))
    if method not in _READERS:
        raise section.fault("quant_method", f"one of {', '.join(_READERS)}", hint=UNQUANTISED_HINT)
    refuse_unknown(section, _KEYS[method], method)
    return _READERS[method](section)


def _fp8(section: HfConfig) -> Formats:
    block = section.integers("weight_block_size")
    if block and block != (FP8_BLOCK, FP8_BLOCK):
        raise section.fault("weight_block_size", f"[{FP8_BLOCK}, {FP8_BLOCK}] or absent")
    if section.text("fmt", "e4m3") not in {"e4m3", "float8_e4m3fn"}:
        raise section.fault("fmt", "e4m3")
    activations = section.text("activation_scheme", "dynamic")
    if activations not in {"dynamic", "static"}:
        raise section.fault("activation_scheme", "dynamic or static")
    if block and activations == "static":
        raise section.fault("activation_scheme", "dynamic, because weights have block scales")
    return uniform(
        WeightFormat(scheme="fp8_block" if block else "fp8", has_static_inputs=activations == "static"),
        [*left_alone(section, "modules_to_not_convert", "ignored_layers", "ignore"), head_rule()],
    )


def _modelopt(section: HfConfig) -> Formats:
    rules = left_alone(section, "exclude_modules", "ignore", "modules_to_not_convert")
    if section.text("quant_algo").upper() != "MIXED_PRECISION":
        return uniform(_algorithm(section), [*rules, head_rule()])
    layers = section.section("quantized_layers")
    if layers is None or not layers.keys():
        raise section.fault("quantized_layers", "an object of layers, because quant_algo is MIXED_PRECISION")
    named: dict[WeightFormat, list[str]] = {}
    for name in layers.keys():  # noqa: SIM118 - a config's own method
        layer = layers.section(name)
        if layer is None:
            raise layers.fault(name, "an object with quant_algo")
        refuse_unknown(layer, _MODELOPT_LAYER_KEYS, "a layer of quantized_layers")
        named.setdefault(_algorithm(layer), []).append(name)
    rules += [Rule(matches=matcher(section, "quantized_layers", names), format=own) for own, names in named.items()]
    return Formats(main=max(named, key=lambda own: (len(named[own]), own.scheme)), rules=tuple(rules))


def _algorithm(section: HfConfig) -> WeightFormat:
    algorithm = section.text("quant_algo").upper()
    if algorithm not in _ALGORITHMS:
        raise section.fault("quant_algo", f"one of {', '.join(_ALGORITHMS)} or MIXED_PRECISION")
    found = _ALGORITHMS[algorithm]
    group = section.integer("group_size", found.group_size)
    if found.scheme == "nvfp4" and group not in {16, found.group_size}:
        raise section.fault("group_size", "16 for NVFP4")
    return replace(found, group_size=group) if found.scheme in {"w4a16", "w4a8"} else found


_ALIASES: Final[Mapping[str, str]] = {
    "gptq_marlin": "gptq",
    "auto_gptq": "gptq",
    "gptqmodel": "gptq",
    "awq_marlin": "awq",
    "auto_awq": "awq",
    "gpt_oss_mxfp4": "mxfp4",
}
_ALGORITHMS: Final[Mapping[str, WeightFormat]] = {
    "FP8": WeightFormat(scheme="fp8", has_static_inputs=True),
    "FP8_PER_CHANNEL_PER_TOKEN": WeightFormat(scheme="fp8"),
    "FP8_PB_WO": WeightFormat(scheme="fp8_block"),
    "NVFP4": WeightFormat(scheme="nvfp4"),
    "NVFP4_AWQ": WeightFormat(scheme="nvfp4"),
    "W4A16_AWQ": WeightFormat(scheme="w4a16"),
    "INT4_AWQ": WeightFormat(scheme="w4a16"),
    "W4A8_AWQ": WeightFormat(scheme="w4a8"),
}
_ANY_TOOL: Final = frozenset({"quant_method", "producer", "version"})
_MODELOPT_LAYER_KEYS: Final = frozenset({"quant_algo", "group_size", "has_zero_point", "pre_quant_scale"})
# Keys that are read, and keys that say how the checkpoint was made, which changes neither bytes nor kernels.
_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "fp8": _ANY_TOOL
    | {
        "activation_scheme", "fmt", "weight_block_size", "modules_to_not_convert", "ignored_layers", "ignore",
        "scale_fmt", "dequantize", "kv_cache_scheme",
    },
    "fbgemm_fp8": _ANY_TOOL | {"activation_scale_ub", "modules_to_not_convert", "ignored_layers", "activation_scheme"},
    "modelopt": _ANY_TOOL
    | {
        "quant_algo", "kv_cache_quant_algo", "kv_cache_scheme", "group_size", "exclude_modules", "ignore",
        "modules_to_not_convert", "config_groups", "quantized_layers", "has_zero_point", "pre_quant_scale",
        "quant_type", "modelopt_version",
    },
    "mxfp4": _ANY_TOOL | {"modules_to_not_convert", "dequantize"},
    "awq": _ANY_TOOL
    | {
        "bits", "w_bit", "group_size", "q_group_size", "zero_point", "modules_to_not_convert", "lm_head", "do_fuse",
        "fuse_max_seq_len", "modules_to_fuse", "backend", "exllama_config", "provider", "quantizer",
        "checkpoint_format", "format", "pack_dtype", "meta", "sym", "desc_act",
    },
    "gptq": _ANY_TOOL
    | {
        "bits", "group_size", "sym", "dynamic", "modules_in_block_to_quantize", "modules_to_not_convert", "lm_head",
        "desc_act", "act_group_aware", "static_groups", "true_sequential", "damp_percent", "damp_auto_increment",
        "model_name_or_path", "model_file_base_name", "model_seqlen", "checkpoint_format", "format",
        "is_marlin_format", "pack_dtype", "meta", "quantizer", "backend", "dataset", "tokenizer", "batch_size",
        "max_input_length", "pad_token_id", "block_name_to_quantize", "module_name_preceding_first_block",
        "cache_block_outputs", "use_cuda_fp16", "use_exllama", "disable_exllama", "exllama_config", "mse", "provider",
    },
    "compressed-tensors": _ANY_TOOL
    | {
        "config_groups", "ignore", "format", "kv_cache_scheme", "quantization_status", "global_compression_ratio",
        "sparsity_config", "transform_config",
    },
}  # fmt: skip
_READERS: Final[Mapping[str, Callable[[HfConfig], Formats]]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "modelopt": _modelopt,
    "mxfp4": lambda section: Formats(
        main=WeightFormat(scheme="mxfp4"),
        rules=(
            *left_alone(section, "modules_to_not_convert"),
            Rule(matches=lambda matrix: ".experts." in f".{matrix.path}.", format=WeightFormat(scheme="mxfp4")),
        ),
    ),
    "awq": read_awq,
    "gptq": read_gptq,
    "compressed-tensors": read_compressed_tensors,
}
