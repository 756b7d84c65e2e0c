"""Synthetic open-loop workloads: an arrival process over drawn lengths, and the named length mixes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import MOST_REQUESTS
from simulator.workload.generators.arrivals import ArrivalName, iter_arrivals, random_stream
from simulator.workload.generators.lengths import LengthDistribution, Lognormal, draw_pairs
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """Open-loop requests to draw: arrivals, prompts and outputs come from streams of their own under one ``seed``.

    ``lengths`` are distributions, or a workload whose (prompt, output) pairs are drawn with replacement.
    """

    count: int
    lengths: LengthMix | Workload
    process: ArrivalName = "poisson"
    rate_per_s: float = 1.0
    arrival_cv: float = 1.0
    seed: int = 0
    name: str = "synthetic"

    def whole(self) -> Workload:
        """Draw all requests at once; raises ``UserError`` for more than one workload holds."""
        if self.count > MOST_REQUESTS:
            raise UserError(
                f"number of requests is {shown(self.count)}, must be <= {MOST_REQUESTS}",
                hint="apex simulate --stream serves longer ones in parts",
            )
        return next(self.iter_parts(max(self.count, 1)))

    def iter_parts(self, part_requests: int) -> Iterator[Workload]:
        """Draw the same requests in consecutive parts of at most ``part_requests``."""
        arrivals = iter_arrivals(
            self.count,
            part_requests,
            process=self.process,
            rate_per_s=self.rate_per_s,
            cv=self.arrival_cv,
            seed=self.seed,
        )
        draw = self._pairs()
        for arrival_s in arrivals:
            prompts, outputs = draw(len(arrival_s))
            yield Workload(
                name=self.name,
                arrival_s=arrival_s,
                prompt_tokens=prompts,
                output_tokens=outputs,
                notes=self.lengths.notes if isinstance(self.lengths, Workload) else (),
            )

    def _pairs(self) -> Callable[[int], tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return what draws the next so many prompts and outputs."""
        lengths = self.lengths
        if isinstance(lengths, Workload):
            pairs = random_stream(self.seed, "empirical lengths")
            return lambda count: draw_pairs(lengths.prompt_tokens, lengths.output_tokens, count, pairs)
        prompts, outputs = random_stream(self.seed, "prompt lengths"), random_stream(self.seed, "output lengths")
        return lambda count: (lengths.prompt.draw(count, prompts), lengths.output.draw(count, outputs))
