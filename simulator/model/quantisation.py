"""The `quantization_config` of a checkpoint: which scheme its matrices are stored in, and which are left alone.

Covers fp8 (per tensor or channel, and 128 x 128 blocks), fbgemm_fp8, modelopt (fp8, nvfp4), mxfp4, awq and gptq (4- and
8-bit weights) and compressed-tensors (w8a8, fp8, w4a16, w8a16, nvfp4). Anything else is refused by name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from simulator.model.checkpoint_kv import method_of, quantisation_section
from simulator.model.hf_config import HfConfig
from simulator.model.linear import FP8_BLOCK, WeightFormat

# Parts that no format rounds: leaving them out says nothing of the matrices beside them.
_NEVER_QUANTISED: Final = ("norm", "gate", "bias", "indexers_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """The checkpoint's format, and patterns of module paths that stay in ``dtype``."""

    dtype: str
    quantised: WeightFormat | None = None
    ignored: tuple[str, ...] = ()
    experts_only: bool = False

    @property
    def scheme(self) -> str | None:
        """Scheme of the quantised matrices, None when there are none."""
        return self.quantised.scheme if self.quantised else None

    def of(self, module: str) -> WeightFormat:
        """Format of one module's matrices, by its path, for example ``model.layers.3.mlp.experts``."""
        plain = WeightFormat(scheme=self.dtype)
        if self.quantised is None or (self.experts_only and not module.endswith(".experts")):
            return plain
        return plain if any(_matches(pattern, module) for pattern in self.ignored) else self.quantised


def read_quantisation(config: HfConfig, dtype: str) -> Quantisation:
    """Read ``quantization_config``; absent means unquantised."""
    section = quantisation_section(config)
    if section is None:
        return Quantisation(dtype=dtype)
    method = method_of(section)
    if method not in _READERS:
        raise section.fault(
            "quant_method", f"one of {', '.join(_READERS)}", hint="use the unquantised checkpoint's config.json"
        )
    return Quantisation(
        dtype=dtype,
        quantised=_READERS[method](section),
        ignored=_ignored_modules(section),
        experts_only=method == "mxfp4",
    )


def _ignored_modules(section: HfConfig) -> tuple[str, ...]:
    """Patterns of modules left alone, under the name each tool gives the list; each regular expression is one."""
    patterns = ["lm_head"]
    for key in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"):
        for pattern in section.strings(key):
            try:
                re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
            except re.error as error:
                raise section.fault(key, f"made of names and regular expressions; {pattern!r}: {error}") from error
            patterns.append(pattern)
    return tuple(patterns)


def _fp8(section: HfConfig) -> WeightFormat:
    block = section.integers("weight_block_size")
    if block and block != (FP8_BLOCK, FP8_BLOCK):
        raise section.fault("weight_block_size", f"[{FP8_BLOCK}, {FP8_BLOCK}] or absent")
    return WeightFormat(scheme="fp8_block" if block else "fp8")


def _modelopt(section: HfConfig) -> WeightFormat:
    algorithm = section.text("quant_algo")
    if algorithm not in {"FP8", "NVFP4"}:
        raise section.fault("quant_algo", "FP8 or NVFP4")
    return WeightFormat(scheme=algorithm.lower())


def _integer_weights(section: HfConfig) -> WeightFormat:
    bits = section.integer("bits", 4)
    if bits not in {4, 8}:
        raise section.fault("bits", "4 or 8")
    return WeightFormat(scheme="w4a16" if bits == 4 else "w8a16", group_size=_group_size(section))


def _compressed_tensors(section: HfConfig) -> WeightFormat:
    """Scheme of the one config group a compressed-tensors checkpoint has."""
    groups = section.section("config_groups")
    names = () if groups is None else groups.keys()
    if groups is None or len(names) != 1:
        raise section.fault("config_groups", "an object with exactly one group")
    group = groups.section(names[0])
    weights = group.section("weights") if group else None
    if group is None or weights is None:
        raise groups.fault(names[0], "a group with a weights section")
    inputs = group.section("input_activations")
    bits, kind = weights.integer("num_bits"), weights.text("type", "int")
    input_bits = inputs.integer("num_bits") if inputs else 16
    schemes = {
        ("float", 8, 8): "fp8",
        ("int", 8, 8): "w8a8",
        ("int", 8, 16): "w8a16",
        ("float", 8, 16): "w8a16",
        ("int", 4, 16): "w4a16",
        ("int", 4, 8): "w4a8",
        ("float", 4, 4): "nvfp4",
    }
    scheme = schemes.get((kind, bits, input_bits))
    if scheme is None:
        raise weights.fault(
            "num_bits", f"a supported format; {kind} {bits}-bit weights with {input_bits}-bit inputs is not"
        )
    if scheme == "fp8" and weights.raw("strategy") == "block":
        scheme = "fp8_block"
    return WeightFormat(scheme=scheme, group_size=_group_size(weights))


def _group_size(section: HfConfig) -> int:
    """Elements of k that share one scale; -1 = the whole row."""
    return section.integer("group_size", 128, least=-1)


def _matches(pattern: str, module: str) -> bool:
    """Whether a checkpoint's pattern names this module: a regex (`re:`), a glob, or a path or prefix of one.

    A multimodal checkpoint's paths start with the language model's.
    """
    if pattern.startswith("re:"):
        return re.match(pattern[3:], module) is not None
    pattern = pattern.removeprefix("language_model.").replace("model.language_model.", "model.", 1)
    if "*" in pattern:
        return any(fnmatchcase(path, pattern) for path in (module, f"{module}.weight"))
    is_part = pattern.startswith(f"{module}.") and not pattern.endswith(_NEVER_QUANTISED)
    return module == pattern or f".{module}.".find(f".{pattern}.") >= 0 or is_part


_READERS: Final[dict[str, Callable[[HfConfig], WeightFormat]]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "modelopt": _modelopt,
    "mxfp4": lambda _: WeightFormat(scheme="mxfp4"),
    "awq": _integer_weights,
    "gptq": _integer_weights,
    "compressed-tensors": _compressed_tensors,
}
