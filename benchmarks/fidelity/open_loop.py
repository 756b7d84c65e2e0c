"""vLLM 0.15 under a constant rate, prompts that come back: the same 10 groups of 10 prompts over and over.

Requests go to group n mod 10, prompt (n div 10) mod 10, so that from the 101st on nearly every prompt is found in the
prefix cache, and a step rarely computes more than the last block of a prompt: what these runs measure is decode steps
that carry a few prompt tokens. Compared are mean TTFT, E2E and ITL, of each stage and of the whole run; ITL counts the
tokens that were asked for, where the clients counted what they tokenised again.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.fidelity.by_request import replayed_by_request
from simulator.calibration.evidence import E2E, ITL, TTFT
from simulator.validation.deployment import Deployment
from simulator.validation.measured_run import MeasuredRun
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.workload.workload import PrefixBlocks, Workload

Row = dict[str, str]

PROFILE: Final = "vllm-0.15"
STAGES: Final = "stages"
WHOLE: Final = "whole runs"
_GROUPS: Final = 10
_PROMPTS: Final = 10
_BLOCK: Final = 16
_CONTEXT: Final = 4096
_CLUSTERS: Final = {"H100": "h100-sxm-8", "A100-80GB": "a100-sxm-80gb-8"}
_COLUMNS: Final = {TTFT: "ttft_mean_ms", ITL: "itl_mean_ms", E2E: "e2e_mean_ms"}
_MODELS: Final = {
    "CodeLlama-34b-Instruct-hf": "codellama-34b",
    "Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "Llama-2-7b-hf": "llama-2-7b",
    "Llama-2-70b-hf": "llama-2-70b",
}


def replay_open_loop(groundtruth: Path, predictor: Predictor) -> Iterator[ValidatedRun]:
    """Replay every run; yields each and its stages (by ``set``)."""
    with (groundtruth / "openloop_vllm015.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number in dict.fromkeys(row["id"] for row in rows):
        yield from _stages([row for row in rows if row["id"] == number], predictor)


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


def _stages(rows: Sequence[Row], predictor: Predictor) -> Iterator[ValidatedRun]:
    whole = next(row for row in rows if row["stage"] == "all")
    workload, stages = open_loop_workload(whole)
    found, latencies = replayed_by_request(_run(whole, workload), predictor)
    means = {TTFT: latencies["ttft_s"], ITL: latencies["tpot_s"], E2E: latencies["e2e_s"]}
    for row in rows:
        run = _run(row, workload)
        of = np.ones(len(stages), dtype=np.bool_) if run.set == WHOLE else stages == int(row["stage"])
        predicted = {path: float(values[of].mean()) for path, values in means.items()}
        yield replace(found, run=run, predicted=predicted, outcome=None)


def _run(row: Row, workload: Workload) -> MeasuredRun:
    """Return a stage, or the whole run, as measured; the server is that of the run."""
    return MeasuredRun(
        name=f"{row['id']} {row['stage']}",
        place=f"run {row['id']}",
        tool="open loop",
        deployment=Deployment(
            model=_MODELS[row["model"]],
            cluster=_CLUSTERS[row["device"]],
            plan=f"tp{row['tp']}",
            engine=PROFILE,
            settings={
                "max_model_len": _CONTEXT,
                "max_num_batched_tokens": int(row["max_num_batched_tokens"]),
                "max_num_seqs": int(row["max_num_seqs"]) if row["max_num_seqs"] else None,
                "gpu_memory_utilization": float(row["gpu_memory_utilization"]),
            },
        ),
        workload=workload,
        measured={path: float(row[column]) / 1e3 for path, column in _COLUMNS.items()},
        set=WHOLE if row["stage"] == "all" else STAGES,
    )
