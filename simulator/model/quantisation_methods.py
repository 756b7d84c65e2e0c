"""What each quantisation tool writes into a checkpoint's config: formats, and the matrices they are for.

fp8 and fbgemm_fp8, ModelOpt (one algorithm, or MIXED_PRECISION with one per layer), mxfp4, AWQ under both spellings of
its keys, GPTQ with module lists and ``dynamic`` rules, and compressed-tensors with several groups. Every key is
read, or known to say nothing of what is stored or run, or refused by name: none is passed over. Other methods
(bitsandbytes, torchao, quark, auto-round, gguf, hqq, experts_int8 ...) are refused by name.
Sources: vLLM 0.33 ``model_executor/layers/quantization``, GPTQModel, AutoAWQ, compressed-tensors.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from simulator.model.checkpoint_kv import method_of
from simulator.model.hf_config import HfConfig
from simulator.model.linear import FP8_BLOCK, WeightFormat
from simulator.model.module_names import Matcher, MatrixName, glob, literal, regex

_UNQUANTISED_HINT: Final = "use the unquantised checkpoint's config.json"
_KEY_HINT: Final = "remove the key if it changes neither what is stored nor what is run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Matrices that ``matches`` names have ``format``; None leaves them alone."""

    matches: Matcher
    format: WeightFormat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """Rules in the order they are tried, and the format of matrices that none names; ``main`` is most matrices'."""

    main: WeightFormat
    rules: tuple[Rule, ...] = ()
    otherwise: WeightFormat | None = None
    unmatched: Callable[[MatrixName], Exception] | None = None  # raised for a matrix that no rule names

    def of(self, name: MatrixName) -> WeightFormat | None:
        """Format of one matrix; None = left alone."""
        for rule in self.rules:
            if rule.matches(name):
                return rule.format
        if self.unmatched is not None:
            raise self.unmatched(name)
        return self.otherwise


def read_formats(section: HfConfig) -> Formats:
    """Read one quantisation section; raises ``UserError`` naming key, value and limit for what is not understood."""
    method = _ALIASES.get(method_of(section), method_of(section))
    if method not in _READERS:
        raise section.fault("quant_method", f"one of {', '.join(_READERS)}", hint=_UNQUANTISED_HINT)
    _refuse_unknown(section, _KEYS[method], method)
    return _READERS[method](section)


def _refuse_unknown(section: HfConfig, known: Iterable[str], what: str) -> None:
    """Refuse the first key that is set and neither read nor known to say nothing."""
    for key in section.keys():  # noqa: SIM118 - a config's own method, in file order
        if key in section and key not in known:
            raise section.fault(key, f"absent: no key of {what} that is understood here", hint=_KEY_HINT)


def _left_alone(section: HfConfig, *keys: str) -> list[Rule]:
    """Rules for the lists of modules that a tool did not convert: names or parts of them, ``re:`` and globs."""
    rules = []
    for key in keys:
        rules += [Rule(matches=_matcher(section, key, name)) for name in section.strings(key) if name]
    return rules


def _matcher(section: HfConfig, key: str, pattern: str) -> Matcher:
    if pattern.startswith("re:"):
        return _regex(section, key, pattern[3:])
    return glob(pattern) if "*" in pattern else literal(pattern)


def _regex(section: HfConfig, key: str, pattern: str) -> Matcher:
    try:
        return regex(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise section.fault(key, f"made of names and regular expressions; {pattern[:60]!r}: {error}") from error


def _head(format_of_head: WeightFormat | None = None) -> Rule:
    """Engines leave the head alone unless the tool says that it converted it."""
    return Rule(matches=literal("lm_head"), format=format_of_head)


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
    return _uniform(
        WeightFormat(scheme="fp8_block" if block else "fp8", has_static_inputs=activations == "static"),
        [*_left_alone(section, "modules_to_not_convert", "ignored_layers", "ignore"), _head()],
    )


def _uniform(main: WeightFormat, rules: Iterable[Rule]) -> Formats:
    return Formats(main=main, rules=tuple(rules), otherwise=main)


def _modelopt(section: HfConfig) -> Formats:
    rules = _left_alone(section, "exclude_modules", "ignore", "modules_to_not_convert")
    if section.text("quant_algo").upper() != "MIXED_PRECISION":
        return _uniform(_algorithm(section), [*rules, _head()])
    layers = section.section("quantized_layers")
    if layers is None or not layers.keys():
        raise section.fault("quantized_layers", "an object of layers, because quant_algo is MIXED_PRECISION")
    named: dict[str, WeightFormat] = {}
    for name in layers.keys():  # noqa: SIM118 - a config's own method
        layer = layers.section(name)
        if layer is None:
            raise layers.fault(name, "an object with quant_algo")
        _refuse_unknown(layer, _MODELOPT_LAYER_KEYS, "a layer of quantized_layers")
        named[name] = _algorithm(layer)
    rules += [Rule(matches=_matcher(layers, name, name), format=value) for name, value in named.items()]
    schemes = list(named.values())
    return Formats(main=max(set(schemes), key=lambda value: (schemes.count(value), value.scheme)), rules=tuple(rules))


def _algorithm(section: HfConfig) -> WeightFormat:
    algorithm = section.text("quant_algo").upper()
    if algorithm not in _ALGORITHMS:
        raise section.fault("quant_algo", f"one of {', '.join(_ALGORITHMS)} or MIXED_PRECISION")
    found = _ALGORITHMS[algorithm]
    group = section.integer("group_size", found.group_size)
    if found.scheme == "nvfp4" and group not in {16, found.group_size}:
        raise section.fault("group_size", "16 for NVFP4")
    return replace(found, group_size=group) if found.scheme in {"w4a16", "w4a8"} else found


def _integer_weights(
    section: HfConfig, bits: int, group: int, *, has_zero_points: bool, bits_key: str = "bits"
) -> WeightFormat:
    if bits not in {4, 8}:
        raise section.fault(bits_key, "4 or 8")
    if bits == 4:
        return WeightFormat(scheme="w4a16", group_size=group, group_bytes=0.5 if has_zero_points else 0.0)
    # One 16-bit scale per group instead of one per channel.
    return WeightFormat(scheme="w8a16", group_size=group, group_bytes=3.0 if has_zero_points else 2.0)


def _awq(section: HfConfig) -> Formats:
    bits_key = "bits" if "bits" in section else "w_bit"
    group_key = "group_size" if "group_size" in section else "q_group_size"
    main = _integer_weights(
        section,
        section.integer(bits_key, 4),
        section.integer(group_key, 128, least=-1),
        has_zero_points=section.flag("zero_point", default=True),
        bits_key=bits_key,
    )
    head = main if section.flag("lm_head", default=False) else None
    return _uniform(main, [*_left_alone(section, "modules_to_not_convert"), _head(head)])


def _gptq(section: HfConfig) -> Formats:
    bits, group = section.integer("bits", 4), section.integer("group_size", 128, least=-1)
    is_symmetric = section.flag("sym", default=True)
    main = _integer_weights(section, bits, group, has_zero_points=not is_symmetric)
    rules = _dynamic_rules(section, bits, group, is_symmetric=is_symmetric)
    rules += _left_alone(section, "modules_to_not_convert")
    rules.append(_head(main if section.flag("lm_head", default=False) else None))
    converted = _names(section, "modules_in_block_to_quantize")
    if not converted:
        return _uniform(main, rules)
    rules += [Rule(matches=_matcher(section, "modules_in_block_to_quantize", name), format=main) for name in converted]
    return Formats(main=main, rules=tuple(rules))


def _dynamic_rules(section: HfConfig, bits: int, group: int, *, is_symmetric: bool) -> list[Rule]:
    """Read GPTQModel's ``dynamic``: ``-:`` leaves modules alone, ``+:`` or no sign gives them values of their own."""
    dynamic = section.section("dynamic")
    rules = []
    for pattern in () if dynamic is None else dynamic.keys():
        assert dynamic is not None
        matches = _regex(section, "dynamic", pattern.removeprefix("-:").removeprefix("+:"))
        if pattern.startswith("-:"):
            rules.append(Rule(matches=matches))
            continue
        changes = dynamic.section(pattern)
        if changes is None:
            raise dynamic.fault(pattern, "an object of what differs")
        _refuse_unknown(changes, _DYNAMIC_KEYS, "a rule of dynamic")
        own = _integer_weights(
            changes,
            changes.integer("bits", bits),
            changes.integer("group_size", group, least=-1),
            has_zero_points=not changes.flag("sym", default=is_symmetric),
        )
        rules.append(Rule(matches=matches, format=own))
    return rules


def _names(section: HfConfig, key: str) -> list[str]:
    """Names in a list, or in a list of lists as GPTQ groups them."""
    value = section.raw(key)
    if value is None:
        return []
    flat = value if isinstance(value, list) else None
    if flat is not None and all(isinstance(item, list) for item in flat):
        flat = [name for item in flat for name in item]
    if flat is None or not all(isinstance(name, str) for name in flat):
        raise section.fault(key, "a list of names, or of lists of names")
    return flat


def _compressed_tensors(section: HfConfig) -> Formats:
    """Choose groups by their targets: names and expressions first, in the order of the groups, then classes."""
    groups = section.section("config_groups")
    names = () if groups is None else groups.keys()
    if groups is None or not names:
        raise section.fault("config_groups", "an object of groups, each with weights and targets")
    section.refuse("transform_config", because="online transforms are not modelled", hint=_UNQUANTISED_HINT)
    _refuse_sparse(section)
    rules = _left_alone(section, "ignore")
    by_name: list[Rule] = []
    by_class: list[Rule] = []
    formats = []
    for name in names:
        group = groups.section(name)
        if group is None:
            raise groups.fault(name, "a group with a weights section")
        own = _group_format(group)
        formats.append(own)
        for target in group.strings("targets") or ("Linear",):
            if _is_class(target):
                by_class.append(Rule(matches=_class_matcher(group, target), format=own))
            else:
                by_name.append(Rule(matches=_matcher(group, "targets", target), format=own))

    def unmatched(matrix: MatrixName) -> Exception:
        return section.fault("config_groups", f"groups whose targets or ignore name {matrix.path}")

    return Formats(main=formats[-1], rules=(*rules, *by_name, _head(), *by_class), unmatched=unmatched)


def _is_class(target: str) -> bool:
    return not target.startswith("re:") and "." not in target and target[:1].isupper()


def _class_matcher(group: HfConfig, target: str) -> Matcher:
    """Engines look for the class's name in that of their own layer: ``Linear`` is in every one that is a matrix."""
    if target.lower() == "linear" or target in {"FusedMoE", "RoutedExperts"}:
        experts_only = target.lower() != "linear"
        return lambda matrix: not experts_only or ".experts." in f".{matrix.path}."
    raise group.fault("targets", f"names, expressions (re:) or Linear; {target!r} is a class that is not modelled")


def _refuse_sparse(section: HfConfig) -> None:
    sparsity = section.section("sparsity_config")
    if sparsity is not None and sparsity.keys() and sparsity.text("format", "dense") != "dense":
        raise sparsity.fault("format", "dense: sparse weights are not modelled", hint=_UNQUANTISED_HINT)


def _group_format(group: HfConfig) -> WeightFormat:
    _refuse_unknown(group, _GROUP_KEYS, "a config group")
    group.refuse("output_activations", because="rounded outputs are not modelled")
    weights, inputs = group.section("weights"), group.section("input_activations")
    if weights is None:
        raise group.fault("weights", "an object with num_bits and type")
    for part in (weights, inputs):
        if part is not None:
            _refuse_unknown(part, _ARGUMENT_KEYS, "quantisation arguments")
    bits, kind = weights.integer("num_bits"), weights.text("type", "int")
    input_bits = inputs.integer("num_bits", 8) if inputs else 16
    if inputs is not None and inputs.text("type", kind) != kind and (kind, bits) != ("int", 4):
        raise inputs.fault("type", f"{kind}, as the weights")
    size, strategy = weights.integer("group_size", 128, least=-1), weights.text("strategy", "")
    scheme = _COMPRESSED.get((kind, bits, input_bits))
    if (kind, bits) == ("float", 4) and size == 32:  # MXFP4; with rounded inputs no kernel is modelled
        scheme = "mxfp4" if input_bits == 16 else None
    if (kind, bits) == ("float", 8) and strategy not in _FLOAT8_STRATEGIES:
        scheme = None
    if scheme is None:
        stored = f"{kind} {bits}-bit weights" + (f" by {strategy}" if strategy else "")
        raise weights.fault("num_bits", f"a supported format; {stored} with {input_bits}-bit inputs is not")
    if scheme == "fp8" and strategy == "block":
        block = weights.integers("block_structure") or (FP8_BLOCK, FP8_BLOCK)
        if block != (FP8_BLOCK, FP8_BLOCK):
            raise weights.fault("block_structure", f"[{FP8_BLOCK}, {FP8_BLOCK}]")
        return WeightFormat(scheme="fp8_block")
    is_static = scheme in {"fp8", "w8a8"} and inputs is not None and inputs.raw("dynamic") in {None, False}
    is_grouped = scheme == "w8a16" and strategy == "group"
    zero_points = 0.5 if scheme in {"w4a16", "w4a8"} and not weights.flag("symmetric", default=True) else 0.0
    extra = 2.0 if is_grouped else zero_points
    return WeightFormat(scheme=scheme, group_size=size, group_bytes=extra, has_static_inputs=is_static)


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
_COMPRESSED: Final[Mapping[tuple[str, int, int], str]] = {
    ("float", 8, 8): "fp8",
    ("int", 8, 8): "w8a8",
    ("int", 8, 16): "w8a16",
    ("float", 8, 16): "w8a16",
    ("int", 4, 16): "w4a16",
    ("int", 4, 8): "w4a8",
    ("float", 4, 4): "nvfp4",
}
_FLOAT8_STRATEGIES: Final = frozenset({"", "tensor", "channel", "block", "token"})

_ANY_TOOL: Final = frozenset({"quant_method", "producer", "version"})
_MODELOPT_LAYER_KEYS: Final = frozenset({"quant_algo", "group_size", "has_zero_point", "pre_quant_scale"})
_DYNAMIC_KEYS: Final = frozenset({"bits", "group_size", "sym", "desc_act", "damp_percent", "mse", "act_group_aware"})
_GROUP_KEYS: Final = frozenset({"weights", "input_activations", "output_activations", "targets", "format"})
_ARGUMENT_KEYS: Final = frozenset(
    {
        "num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder",
        "observer", "observer_kwargs", "scale_dtype", "zp_dtype",
    }
)  # fmt: skip
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
            *_left_alone(section, "modules_to_not_convert"),
            Rule(matches=lambda matrix: ".experts." in f".{matrix.path}.", format=WeightFormat(scheme="mxfp4")),
        ),
    ),
    "awq": _awq,
    "gptq": _gptq,
    "compressed-tensors": _compressed_tensors,
}
