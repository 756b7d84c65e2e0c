"""compressed-tensors: groups of matrices chosen by targets, each with a format of weights and inputs.

Source: compressed-tensors, and how vLLM reads it (``quantization/compressed_tensors``).
"""

from collections.abc import Mapping
from typing import Final

from simulator.model.hf_config import HfConfig
from simulator.model.linear import FP8_BLOCK, WeightFormat
from simulator.model.quantisation.module_names import Matcher, MatrixName
from simulator.model.quantisation.rules import (
    UNQUANTISED_HINT,
    Formats,
    Rule,
    head_rule,
    left_alone,
    matcher,
    refuse_unknown,
)

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

_GROUP_KEYS: Final = frozenset({"weights", "input_activations", "output_activations", "targets", "format"})
_ARGUMENT_KEYS: Final = frozenset(
    {
        "num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder",
        "observer", "observer_kwargs", "scale_dtype", "zp_dtype",
    }
)  # fmt: skip


def read_compressed_tensors(section: HfConfig) -> Formats:
    """Choose groups by their targets: names and expressions first, in the order of the groups, then classes."""
    groups = section.section("config_groups")
    names = () if groups is None else groups.keys()
    if groups is None or not names:
        raise section.fault("config_groups", "an object of groups, each with weights and targets")
    section.refuse("transform_config", because="online transforms are not modelled", hint=UNQUANTISED_HINT)
    _refuse_sparse(section)
    rules = left_alone(section, "ignore")
    by_name: list[Rule] = []
    by_class: list[Rule] = []
    formats = []
    for name in names:
        group = groups.section(name)
        if group is None:
            raise groups.fault(name, "a group with a weights section")
        own = _group_format(group)
        formats.append(own)
        targets = group.strings("targets") or ("Linear",)
        by_class += [Rule(matches=_class_matcher(group, name), format=own) for name in targets if _is_class(name)]
        named = [name for name in targets if not _is_class(name)]
        by_name += [Rule(matches=matcher(group, "targets", named), format=own)] if named else []

    def unmatched(matrix: MatrixName) -> Exception:
        return section.fault("config_groups", f"groups whose targets or ignore name {matrix.path}")

    return Formats(main=formats[-1], rules=(*rules, *by_name, head_rule(), *by_class), unmatched=unmatched)


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
        raise sparsity.fault("format", "dense: sparse weights are not modelled", hint=UNQUANTISED_HINT)


def _group_format(group: HfConfig) -> WeightFormat:
    refuse_unknown(group, _GROUP_KEYS, "a config group")
    group.refuse("output_activations", because="rounded outputs are not modelled")
    weights, inputs = group.section("weights"), group.section("input_activations")
    if weights is None:
        raise group.fault("weights", "an object with num_bits and type")
    for part in (weights, inputs):
        if part is not None:
            refuse_unknown(part, _ARGUMENT_KEYS, "quantisation arguments")
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
