"""The longest sequence an engine version accepts of a model: ``max_position_embeddings``, scaled as that version does.

vLLM counted YaRN's factor, from ``original_max_position_embeddings``, until pull 56446; SGLang counts a factor only
where no original length stands beside it. Which rope types count how is in the engine's profile (``context``).
"""

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.model.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Tokens: the most that may be asked for, what the engine takes when nothing is, and where the limit comes from."""

    limit: int
    default: int
    why: str
    is_scaled: bool = False
    unused_factor: float = 1.0  # a factor the config states and this version does not count


def context_of(model: ModelSpec, profile: EngineProfile) -> Context:
    """Derive the context of ``model`` under an engine version; raises ``UserError`` where the version would fail."""
    rules, positions = profile.context, model.positions
    base = positions.model_max_length or model.max_position
    key = "model_max_length" if positions.model_max_length else "max_position_embeddings"
    limit, factor, unused, kind = base, 1.0, 1.0, ""
    if any(name in model.architecture for name in rules.unscaled_models):
        return Context(limit=base, default=base, why=f"{key} of its config")
    for scaling in positions.scalings:
        counts = scaling.kind not in rules.unscaled
        if counts and scaling.original is not None and rules.original_is_scaled:
            counts = False
        if not counts:
            unused = max(unused, scaling.factor)
            continue
        factor = scaling.factor
        kind = scaling.kind
        if scaling.kind in rules.from_original:
            if scaling.original is None:
                raise UserError(
                    f"{model.name}: {profile.name} takes {scaling.kind}'s original_max_position_embeddings, which the "
                    "config does not state",
                    hint="state it beside the factor in rope_scaling",
                )
            limit, key = scaling.original, "original_max_position_embeddings"
    limit = int(limit * factor)
    originals = [
        item.original for item in positions.scalings if item.kind in rules.starts_at_original and item.original
    ]
    why = (
        f"{key} of its config" if factor == 1.0 else f"{factor:g} x {int(limit / factor)}, {key} of its config ({kind})"
    )
    return Context(
        limit=limit,
        default=min([limit, *originals]),
        why=why,
        is_scaled=limit != base,
        unused_factor=unused,
    )


def check_max_model_len(asked: int, model: ModelSpec, profile: EngineProfile) -> None:
    """Refuse a length beyond the context; raises ``UserError``."""
    context = context_of(model, profile)
    if asked <= context.limit:
        return
    raise UserError(
        f"max_model_len is {asked}, must be at most {context.limit}, the context of {model.name} under {profile.name}: "
        f"{context.why}",
        hint=_longer(context, profile) if context.unused_factor > 1 else "",
    )


def context_note(model: ModelSpec, profile: EngineProfile) -> str | None:
    """Say what a rope scaling makes of the context; None where there is none."""
    context = context_of(model, profile)
    if context.is_scaled:
        return f"context: {context.limit} tokens, {context.why}, as {profile.name} derives it"
    if context.unused_factor > 1 and any(
        item.original and item.original * item.factor > context.limit for item in model.positions.scalings
    ):
        return f"context: {context.limit} tokens, {context.why}; {_longer(context, profile)}"
    return None


def _longer(context: Context, profile: EngineProfile) -> str:
    return (
        f"{profile.name} does not count the rope scaling's factor {context.unused_factor:g}: raise "
        "max_position_embeddings in the config, and on the server by an override of it"
    )
