"""Synthetic open-loop workloads: an arrival process over drawn lengths, and the named length mixes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cluster_specs.errors import UserError
from simulator.workload.arrivals import ArrivalName, generate_arrivals, random_stream
from simulator.workload.lengths import LengthDistribution, Lognormal, draw_pairs
from simulator.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthMix:
    """Prompt and output length distributions of one kind of use."""

    prompt: LengthDistribution
    output: LengthDistribution


# Round figures in the range of the public traces (Azure 2023 code: 2,048/28 tokens on average; Azure 2023 conversation:
# 1,155/211; Mooncake conversation: 12,035/343); they stand for a kind of use, not for a fit of one trace.
LENGTH_MIXES: Final[Mapping[str, LengthMix]] = {
    "chat": LengthMix(
        prompt=Lognormal(mean=550, cv=1.2, maximum=8_192), output=Lognormal(mean=250, cv=0.9, maximum=4_096)
    ),
    "code": LengthMix(
        prompt=Lognormal(mean=2_000, cv=1.0, maximum=16_384), output=Lognormal(mean=30, cv=1.2, maximum=2_048)
    ),
    "summarization": LengthMix(
        prompt=Lognormal(mean=3_000, cv=0.5, maximum=16_384), output=Lognormal(mean=170, cv=0.6, maximum=2_048)
    ),
    "long-context": LengthMix(
        prompt=Lognormal(mean=12_000, cv=1.1, maximum=131_072), output=Lognormal(mean=350, cv=0.8, maximum=4_096)
    ),
    "reasoning": LengthMix(
        prompt=Lognormal(mean=400, cv=1.2, maximum=8_192), output=Lognormal(mean=3_000, cv=0.9, maximum=32_768)
    ),
}


def length_mix(name: str) -> LengthMix:
    """Return the length mix called ``name``; UserError names the known ones."""
    if name not in LENGTH_MIXES:
        raise UserError(f"length mix {name!r} is not known", hint=f"choose one of {', '.join(LENGTH_MIXES)}")
    return LENGTH_MIXES[name]


def generate_workload(
    count: int,
    *,
    mix: LengthMix,
    process: ArrivalName = "poisson",
    rate_per_s: float = 1.0,
    arrival_cv: float = 1.0,
    seed: int = 0,
    name: str = "synthetic",
) -> Workload:
    """Draw ``count`` requests; arrivals, prompts and outputs come from streams of their own under one ``seed``."""
    return Workload(
        name=name,
        arrival_s=generate_arrivals(count, process=process, rate_per_s=rate_per_s, cv=arrival_cv, seed=seed),
        prompt_tokens=mix.prompt.draw(count, random_stream(seed, "prompt lengths")),
        output_tokens=mix.output.draw(count, random_stream(seed, "output lengths")),
    )


def resample_workload(
    source: Workload,
    count: int,
    *,
    process: ArrivalName = "poisson",
    rate_per_s: float = 1.0,
    arrival_cv: float = 1.0,
    seed: int = 0,
) -> Workload:
    """Draw ``count`` requests with the empirical (prompt, output) lengths of ``source`` and fresh arrivals."""
    prompts, outputs = draw_pairs(
        source.prompt_tokens, source.output_tokens, count, random_stream(seed, "empirical lengths")
    )
    return Workload(
        name=f"{source.name}-resampled",
        arrival_s=generate_arrivals(count, process=process, rate_per_s=rate_per_s, cv=arrival_cv, seed=seed),
        prompt_tokens=prompts,
        output_tokens=outputs,
        notes=source.notes,
    )
