"""Rope scaling as a config states it: ``rope_scaling``, or ``rope_parameters`` as transformers 5 spells it.

Whether a factor lengthens the context is up to the engine and its version: ``simulator.feasible.context``.
"""

from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.hf_config import HfConfig

_MOST_FACTOR: Final = 10_000.0  # ten times the largest published one
# Older names, as vLLM's ``patch_legacy_rope_type`` maps them.
_RENAMED: Final = {"su": "longrope", "mrope": "default", "telechat3-yarn": "yarn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """One scaling: its type, its factor (1 where none is stated) and the length the model was trained on."""

    kind: str
    factor: float = 1.0
    original: int | None = None  # original_max_position_embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """What a config says of lengths beside ``max_position_embeddings``."""

    scalings: tuple[RopeScaling, ...] = ()  # one, or one per kind of layer
    model_max_length: int | None = None


def read_positions(config: HfConfig) -> Positions:
    """Read a config's rope scaling, or its text decoder's; raises ``UserError`` naming the key."""
    text = config.section("text_config")
    if text is not None and "max_position_embeddings" not in config:
        return read_positions(text)
    key = "rope_scaling" if "rope_scaling" in config else "rope_parameters"
    section = config.section(key)
    original = config.integer("original_max_position_embeddings", 0, least=0) or None
    scalings: tuple[RopeScaling, ...] = ()
    names = () if section is None else section.keys()
    if section is not None and names:
        nested = [name for name in names if isinstance(section.raw(name), dict)]
        parts = [section.section(name) for name in nested] or [section]
        scalings = tuple(_scaling(part, original) for part in parts if part is not None and part.keys())
    longest = config.integer("model_max_length", 0, least=0) or None
    return Positions(scalings=scalings, model_max_length=longest)


def _scaling(section: HfConfig, original: int | None) -> RopeScaling:
    kind, legacy = section.text("rope_type", ""), section.text("type", "")
    if not (kind or legacy) and "factor" in section:
        raise section.fault("rope_type", "the name of a scaling, because there is a factor")
    renamed = _RENAMED.get(kind or legacy, kind or legacy or "default")
    if kind and legacy and _RENAMED.get(legacy, legacy) != renamed:
        raise section.fault("type", f"absent or the same as rope_type = {kind}")
    return RopeScaling(
        kind=renamed,
        factor=section.number("factor", 1.0, most=_MOST_FACTOR),
        original=section.integer("original_max_position_embeddings", 0, least=0) or original,
    )
