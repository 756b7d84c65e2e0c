"""Random small workloads and limits on which vLLM's scheduler and the engine are compared, in groups by what they try.

A case is plain JSON, so that both sides, a test and the file of kept logs hold the same. Times are whole picoseconds;
a step takes ``step_ps + tokens * token_ps`` on every pipeline stage and ``seq_ps`` per sequence on the last one.
"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

Case = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Draw:
    """What a group narrows before a case is drawn from it; tuples are drawn from, or between their two ends."""

    block_size: tuple[int, ...] = (1, 4, 16)
    max_seqs: tuple[int, int] = (1, 64)
    budget: tuple[int, int] = (4, 300)  # tokens of one step
    requests: tuple[int, int] = (1, 40)
    prompt: tuple[int, int] = (1, 120)
    output: tuple[int, int] = (1, 90)
    room: tuple[int, int] = (1, 100)  # what max_model_len leaves beyond the longest prompt
    spare_blocks: float = 40.0  # KV blocks beyond one longest sequence, as a share of it, at most
    chunked_frac: float = 0.85
    thresholds: tuple[int, ...] = (0, 0, 0, 5, 16, 30)
    arrivals: tuple[str, ...] = ("at once", "dense", "sparse", "closed")
    is_caching: bool = False
    block_parts: tuple[int, ...] = (1,)  # KV blocks that one id of the trace names
    stages: tuple[int, ...] = (1,)
    runners: tuple[str, ...] = ("v2",)
    turns: int = 1  # of a session, at most; a turn's prompt begins with the prompt and the answer before it
    async_frac: float = 0.5


GROUPS: Final[dict[str, Draw]] = {
    "budgets": Draw(budget=(4, 60), prompt=(1, 200), thresholds=(0,)),
    "long prefills": Draw(prompt=(20, 200), chunked_frac=1.0, thresholds=(1, 5, 16, 30, 64)),
    "crowds": Draw(requests=(20, 120), prompt=(1, 40), output=(1, 60)),
    "preemption": Draw(max_seqs=(2, 32), spare_blocks=2.0, output=(10, 150), room=(20, 120)),
    "one token": Draw(output=(1, 1)),
    "staggered": Draw(arrivals=("dense", "sparse"), requests=(10, 60)),
    "closed loops": Draw(arrivals=("closed",), requests=(10, 80), output=(1, 40)),
    "context limits": Draw(room=(1, 30), output=(1, 120)),
    "prefixes": Draw(is_caching=True),
    "prefixes, tight": Draw(is_caching=True, spare_blocks=2.0, requests=(10, 60)),
    "sessions": Draw(is_caching=True, spare_blocks=3.0, arrivals=("dense",), turns=5, prompt=(1, 60), output=(1, 60)),
    "pipelines": Draw(stages=(2, 3, 4), async_frac=0.0, runners=("v1", "v2"), requests=(1, 60), room=(1, 80)),
    "pipelines, ahead": Draw(stages=(2, 3, 4), async_frac=1.0, requests=(1, 60), room=(1, 80)),
    "pipelines, tight": Draw(stages=(2, 3, 4), spare_blocks=2.0, requests=(10, 60), runners=("v1", "v2")),
    "pipelines, old runner": Draw(stages=(2, 3, 4), async_frac=1.0, runners=("v1",), requests=(1, 60), room=(1, 80)),
    "pipelines, prefixes": Draw(stages=(2, 3, 4), is_caching=True, spare_blocks=3.0, requests=(5, 60)),
    "pipelines, old, prefixes": Draw(
        stages=(2, 3, 4), is_caching=True, spare_blocks=3.0, requests=(5, 60), async_frac=1.0, runners=("v1",)
    ),
    "trace blocks": Draw(is_caching=True, spare_blocks=3.0, block_parts=(2, 3, 8), prompt=(1, 250)),
}


def draw_case(group: str, seed: int) -> Case:
    """Draw one case of a group; the same for the same seed, everywhere."""
    rng, of = random.Random(f"{group}:{seed}"), GROUPS[group]
    between = lambda ends: rng.randint(*ends)  # noqa: E731 - named for how it reads below
    block = rng.choice(of.block_size)
    longest = rng.randint(max(2, of.prompt[1] // 4), of.prompt[1])
    model_len = longest + between(of.room)
    max_seqs = _small_or_any(rng, of.max_seqs)
    budget = max(max_seqs, between(of.budget))
    is_chunked = rng.random() < of.chunked_frac
    if not is_chunked:
        budget = max(budget, model_len)
    least = -(-model_len // block)
    case: Case = {
        "name": f"{group}:{seed}",
        "block_size": block,
        "max_num_seqs": max_seqs,
        "max_num_batched_tokens": budget,
        "max_model_len": model_len,
        "num_blocks": least + int(rng.random() * of.spare_blocks * least),
        "is_chunked": is_chunked,
        "is_caching": of.is_caching,
        "is_async": rng.random() < of.async_frac,
        "reserve_full_isl": rng.random() < 0.7,
        "watermark_blocks": min(rng.choice([0, 0, 0, 1, 2, 5]), least - 1),
        "long_prefill": min(rng.choice(of.thresholds), model_len - 1) if is_chunked else 0,
        "stages": rng.choice(of.stages),
        "runner": rng.choice(of.runners),
        "step_ps": rng.randint(1_000, 9_000),
        "token_ps": rng.randint(0, 200),
        "seq_ps": rng.randint(0, 50),
    }
    return _sessions(rng, of, case, longest) if of.turns > 1 else case | _requests(rng, of, case, longest)


def _small_or_any(rng: random.Random, ends: tuple[int, int]) -> int:
    """Draw a number of sequences; half of them are small, where slots run out."""
    return rng.randint(ends[0], min(8, ends[1])) if rng.random() < 0.5 else rng.randint(*ends)


def _requests(rng: random.Random, of: Draw, case: Case, longest: int) -> Case:
    """Draw when requests come, how long they are, and what their prompts share."""
    count = rng.randint(*of.requests)
    how = rng.choice(of.arrivals)
    gap_ps = {"dense": case["step_ps"], "sparse": 20 * case["step_ps"]}.get(how, 0)
    trace_block = case["block_size"] * rng.choice(of.block_parts)
    families = rng.randint(1, 4)
    is_aligned = of.is_caching and rng.random() < 0.4  # prompts of whole blocks, whose last one is always computed
    output = _outputs(rng, of)
    arrivals, prompts, outputs, ids = [0], [], [], []
    for number in range(count):
        arrivals.append(arrivals[-1] + int(rng.expovariate(1.0) * gap_ps))
        prompt = rng.randint(min(of.prompt[0], longest), longest)
        if is_aligned:
            prompt = max(trace_block, prompt // trace_block * trace_block)
        answer = output()
        if rng.random() < 0.9:  # the others are refused where they exceed the context
            answer = max(1, min(answer, case["max_model_len"] - prompt))
        whole = prompt // trace_block
        shared = whole if rng.random() < 0.25 else rng.randint(0, whole)
        family = rng.randrange(families) * 10_000
        own = 1_000_000 + number * 10_000
        prompts.append(prompt)
        outputs.append(answer)
        ids.append([(family if k < shared else own) + k for k in range(whole)] if of.is_caching else [])
    return {
        "trace_block": trace_block,
        "concurrency": rng.randint(1, 20) if how == "closed" else 0,
        "arrivals": arrivals[:-1],  # the clock of both sides starts at the first one
        "prompts": prompts,
        "outputs": outputs,
        "ids": ids,
    }


def _sessions(rng: random.Random, of: Draw, case: Case, longest: int) -> Case:
    """Draw sessions of turns that follow one another, with memory for the longest of them."""
    block, arrival = case["block_size"], 0
    output = _outputs(rng, of)
    drawn: dict[str, list[Any]] = {name: [] for name in ("arrivals", "prompts", "outputs", "ids", "after", "think_ps")}
    for session in range(rng.randint(1, 12)):
        history = 0
        for turn in range(rng.randint(1, of.turns)):
            prompt = history + rng.randint(1, longest)
            drawn["after"].append(len(drawn["prompts"]) - 1 if turn else -1)
            drawn["think_ps"].append(rng.randint(1, 30 * case["step_ps"]) if turn else 0)
            drawn["arrivals"].append(arrival)
            drawn["prompts"].append(prompt)
            drawn["outputs"].append(output())
            drawn["ids"].append([session * 10_000 + k for k in range(prompt // block)])
            history = prompt + drawn["outputs"][-1]
        arrival += int(rng.expovariate(1.0) * 5 * case["step_ps"])
    model_len = max(map(sum, zip(drawn["prompts"], drawn["outputs"], strict=True))) + 1
    if not case["is_chunked"]:
        case["max_num_batched_tokens"] = max(case["max_num_batched_tokens"], model_len)
    least = -(-model_len // block)
    blocks = least + int(rng.random() * of.spare_blocks * least)
    memory = {"num_blocks": blocks, "watermark_blocks": min(case["watermark_blocks"], least - 1)}
    limits = {"max_model_len": model_len, "long_prefill": min(case["long_prefill"], model_len - 1)}
    return case | drawn | memory | limits | {"trace_block": block, "concurrency": 0}


def _outputs(rng: random.Random, of: Draw) -> Callable[[], int]:
    """Return how a case draws the lengths of its answers: any, all one token, a few, or long ones."""
    low, high = of.output
    ends = rng.choice([(low, high), (low, high), (low, low), (low, min(low + 3, high)), ((low + high) // 2, high)])
    return lambda: rng.randint(*ends)


def describe(group: str) -> dict[str, Any]:
    """Return what a group narrows, for the page that lists the groups."""
    plain = asdict(Draw())
    return {name: value for name, value in asdict(GROUPS[group]).items() if value != plain[name]}


def pressure_case(blocks: int) -> Case:
    """Return a server whose answers and system prompts do not fit beside each other into so many KV blocks.

    120 requests from 16 clients, each with one of 20 system prompts of 1,024 tokens, 76 of its own, answers of 800.
    """
    rng = random.Random("pressure")
    count, block = 120, 16
    ids = []
    for number in range(count):
        system = rng.randrange(20) * 10_000
        ids.append([(system if k < 64 else 1_000_000 + number * 10_000) + k for k in range(1100 // block)])
    return {
        "name": f"pressure:{blocks}",
        "block_size": block,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
        "max_model_len": 4096,
        "num_blocks": blocks,
        "is_chunked": True,
        "is_caching": True,
        "is_async": True,
        "reserve_full_isl": True,
        "watermark_blocks": 0,
        "long_prefill": 0,
        "stages": 1,
        "runner": "v2",
        "step_ps": 5_000_000,
        "token_ps": 20_000,
        "seq_ps": 0,
        "trace_block": block,
        "concurrency": 16,
        "arrivals": [0] * count,
        "prompts": [1100] * count,
        "outputs": [800] * count,
        "ids": ids,
    }
