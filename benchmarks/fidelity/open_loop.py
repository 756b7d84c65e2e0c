"""vLLM 0.15 under a constant rate, prompts that come back: the same 10 groups of 10 prompts over and over.

Requests go to group n mod 10, prompt (n div 10) mod 10, so that from the 101st on nearly every prompt is found in the
prefix cache, and a step rarely computes more than the last block of a prompt: what these runs measure is decode steps
that carry a few prompt tokens. Compared are mean TTFT, E2E and ITL, of each stage and of the whole run; ITL counts the
tokens that were asked for, where the clients counted what they tokenised again.
"""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from costmodel.cost_model import CostModel
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.serving import Refusal, Serving
from simulator.simulate import replay
from simulator.workload.workload import PrefixBlocks, Workload

Row = dict[str, str]

PROFILE: Final = "vllm-0.15"
_GROUPS: Final = 10
_PROMPTS: Final = 10
_BLOCK: Final = 16
_CONTEXT: Final = 4096
_DEVICES: Final = {"H100": "h100-sxm", "A100-80GB": "a100-sxm-80gb"}
_MODELS: Final = {
    "CodeLlama-34b-Instruct-hf": "codellama-34b",
    "Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "Llama-2-7b-hf": "llama-2-7b",
    "Llama-2-70b-hf": "llama-2-70b",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoopStage:
    """Measured and predicted means of one stage of a run, in seconds; ``stage`` is its number, or ``all``."""

    row: Row
    stage: str
    ttft_s: float
    itl_s: float
    e2e_s: float

    def measured_s(self, name: str) -> float:
        """Return a measured mean by name: ``ttft``, ``itl`` or ``e2e``."""
        return float(self.row[f"{name}_mean_ms"]) / 1e3

    def error_frac(self, name: str) -> float:
        """Return predicted / measured - 1."""
        return float(getattr(self, f"{name}_s")) / self.measured_s(name) - 1.0


def replay_open_loop(
    groundtruth: Path, costs_of: Callable[[str], CostModel], profile: str = PROFILE
) -> Iterator[OpenLoopStage]:
    """Replay every run; ``costs_of`` prices a device by its name. Stages of a run follow one another."""
    with (groundtruth / "openloop_vllm015.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number in dict.fromkeys(row["id"] for row in rows):
        yield from _stages([row for row in rows if row["id"] == number], costs_of, profile)


def open_loop_workload(row: Row) -> tuple[Workload, np.ndarray]:
    """Return the requests of a run, and the stage of each; arrivals read ``8/s for 600 s then 20/s for 600 s``."""
    arrivals, stages, start = [], [], 0.0
    for stage, (rate, span) in enumerate(re.findall(r"([\d.]+)/s for ([\d.]+) s", row["arrivals"])):
        count = round(float(rate) * float(span))
        arrivals.append(start + np.arange(count) / float(rate))
        stages.append(np.full(count, stage))
        start += float(span)
    arrival_s = np.concatenate(arrivals)
    count = len(arrival_s)
    sent = np.arange(count)
    group, prompt = sent % _GROUPS, sent // _GROUPS % _PROMPTS
    tokens, shared = int(row["prompt_tokens"]), int(row["shared_prefix_tokens"]) // _BLOCK
    blocks = tokens // _BLOCK
    place = np.arange(blocks)
    own = (1 + group[:, None] + _GROUPS * prompt[:, None]) * blocks + place
    common = -(1 + group[:, None] * blocks + place)
    ids = np.where(place < shared, common, own)
    workload = Workload(
        name=f"open-loop-{row['id']}",
        arrival_s=arrival_s,
        prompt_tokens=np.full(count, tokens),
        output_tokens=np.full(count, int(row["output_tokens"])),
        prefix=PrefixBlocks(
            block_tokens=_BLOCK,
            offsets=np.arange(count + 1) * blocks,
            ids=np.unique(ids, return_inverse=True)[1].ravel(),
        ),
    )
    return workload, np.concatenate(stages)


def _stages(rows: list[Row], costs_of: Callable[[str], CostModel], profile: str) -> Iterator[OpenLoopStage]:
    row = next(row for row in rows if row["stage"] == "all")
    costs = costs_of(_DEVICES[row["device"]])
    serving = Serving(
        model=load_model(_MODELS[row["model"]]),
        cluster=costs.cluster,
        profile=load_profile(profile),
        costs=lambda _clock: costs,
        overrides=Overrides(
            max_model_len=_CONTEXT,
            max_num_batched_tokens=int(row["max_num_batched_tokens"]),
            max_num_seqs=int(row["max_num_seqs"]) if row["max_num_seqs"] else None,
            gpu_memory_utilization=float(row["gpu_memory_utilization"]),
        ),
    )
    workload, stages = open_loop_workload(row)
    start = serving.start(parse_plan(f"tp{row['tp']}"), workload)
    if isinstance(start, Refusal):
        raise SystemExit(f"run {row['id']}: {start.reason}")
    run = replay(serving, start, workload).run
    ttft = (run.first_token_ps - run.arrival_ps) * 1e-12
    e2e = (run.finish_ps - run.arrival_ps) * 1e-12
    itl = (e2e - ttft) / np.maximum(workload.output_tokens - 1, 1)
    for stage in rows:
        of = stages == int(stage["stage"]) if stage["stage"] != "all" else np.ones(len(stages), dtype=np.bool_)
        yield OpenLoopStage(
            row=stage,
            stage=stage["stage"],
            ttft_s=float(ttft[of].mean()),
            itl_s=float(itl[of].mean()),
            e2e_s=float(e2e[of].mean()),
        )
