"""Prompts that share a beginning by groups and come back: inference-perf's "N prompts in M groups".

Each of ``groups`` has a system prompt of its own, each of its prompts that and a question of its own. All of them are
sent over and over, in a fixed shuffled order (inference-perf ``shared_prefix``: kubernetes-sigs/inference-perf
inference_perf/datagen/synthetic/shared_prefix_datagen.py), so that from the second round on a large enough prefix cache
finds whole prompts.
"""

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import MAX_PLAUSIBLE_TOKENS, MOST_BLOCK_IDS, MOST_REQUESTS
from simulator.workload.generators.arrivals import ArrivalName, generate_arrivals, random_stream
from simulator.workload.generators.lengths import LengthDistribution
from simulator.workload.workload import PrefixBlocks, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGroups:
    """``count`` requests over ``groups`` x ``prompts_per_group`` prompts; lengths are drawn once for each prompt."""

    count: int
    groups: int
    prompts_per_group: int
    system_prompt_tokens: int
    question: LengthDistribution
    output: LengthDistribution
    rate_per_s: float = 1.0
    process: ArrivalName = "poisson"
    arrival_cv: float = 1.0
    block_tokens: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("groups", "prompts_per_group", "block_tokens"):
            if not 1 <= getattr(self, name) <= MAX_PLAUSIBLE_TOKENS:
                raise UserError(f"{name} is {getattr(self, name)}, must be 1 to {MAX_PLAUSIBLE_TOKENS}")
        if self.groups * self.prompts_per_group > MOST_REQUESTS:
            raise UserError(
                f"{self.groups} groups of {self.prompts_per_group} prompts, must be <= {MOST_REQUESTS} prompts in all"
            )
        if not 0 <= self.system_prompt_tokens <= MAX_PLAUSIBLE_TOKENS:
            raise UserError(f"system prompt is {self.system_prompt_tokens} tokens, must be 0 to {MAX_PLAUSIBLE_TOKENS}")


def generate_groups(spec: PromptGroups) -> Workload:
    """Return the requests; whole blocks of a prompt carry ids that are equal exactly where the tokens before are."""
    arrival_s = generate_arrivals(
        spec.count, process=spec.process, rate_per_s=spec.rate_per_s, cv=spec.arrival_cv, seed=spec.seed
    )
    distinct = spec.groups * spec.prompts_per_group
    questions = spec.question.draw(distinct, random_stream(spec.seed, "prompt lengths"))
    outputs = spec.output.draw(distinct, random_stream(spec.seed, "output lengths"))
    prompts = spec.system_prompt_tokens + questions
    shared = spec.system_prompt_tokens // spec.block_tokens
    order = random_stream(spec.seed, "order of prompts").permutation(distinct)
    sent = order[np.arange(spec.count) % distinct]
    counts = prompts // spec.block_tokens
    total = int(counts[sent].sum())
    if total > MOST_BLOCK_IDS:
        raise UserError(
            f"the prompts of {spec.count} requests have {total:,} blocks of {spec.block_tokens} tokens, at most "
            f"{MOST_BLOCK_IDS:,} can be told apart",
            hint="use larger blocks (block=), shorter prompts or fewer requests",
        )
    # Ids of the groups' common blocks come first, those of each prompt's own blocks after them.
    own = counts - shared
    first_own = spec.groups * shared + np.cumsum(own) - own
    offsets = np.concatenate([[0], np.cumsum(counts[sent])]).astype(np.int64)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts[sent])
    prompt_of = np.repeat(sent, counts[sent])
    group_of = prompt_of // spec.prompts_per_group
    ids = np.where(place < shared, group_of * shared + place, first_own[prompt_of] + place - shared)
    return Workload(
        name="groups",
        arrival_s=arrival_s,
        prompt_tokens=prompts[sent],
        output_tokens=outputs[sent],
        prefix=PrefixBlocks(block_tokens=spec.block_tokens, offsets=offsets, ids=ids.astype(np.int64)),
    )
