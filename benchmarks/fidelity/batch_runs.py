"""Llama-2-70B fp16 in fixed batches on A100 and H100: prompt time, time per token and mean power of whole runs.

Each setting is one batch of equal prompts sent at once; all of it is prefilled in one step, then decoded. Power is
compared where it was recorded (A100 runs of 128 tokens or so; 0 elsewhere means not recorded), as a fraction of TDP.
The engine of these runs is not recorded: profile ``vllm-0.6`` stands in, without chunked prefill, without CUDA graphs
(they run eagerly: their time per token does not fall below that of the launches) and without a server's host time.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.fidelity.rejection import MOST_OF_PEAK
from costmodel.cost_model import CostModel
from costmodel.ops.roofline import peak_flop_per_s
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.serving import Refusal, Serving
from simulator.simulate import replay
from simulator.steps.op_curves import OpCurves
from simulator.workload.workload import Workload

DEVICES: Final = {"a100-80gb": "a100-sxm-80gb", "h100-80gb": "h100-sxm"}
PROFILE: Final = "vllm-0.6"
_NAN: Final = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """One setting: medians over its repeats, and what the simulator says; NaN where not recorded."""

    tp: int
    prompt: int
    batch: int
    tokens: int
    measured_prompt_s: float
    measured_token_s: float
    measured_power_frac: float
    prompt_s: float
    token_s: float
    power_frac: float
    refused: str | None = None


def replay_batches(path: Path, hardware: str, costs: CostModel) -> Iterator[BatchRun]:
    """Replay every setting of ``hardware``."""
    model, profile = load_model("llama-2-70b"), _eager(load_profile(PROFILE))
    peak = peak_flop_per_s(costs.cluster.device, "fp16")
    priced: dict[float | None, OpCurves] = {}
    settings: dict[tuple[int, ...], list[dict[str, str]]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["hardware"] == hardware:
                key = tuple(int(row[name]) for name in ("tensor_parallel", "prompt_size", "batch_size", "token_size"))
                settings[key].append(row)
    for (tp, prompt, batch, tokens), rows in sorted(settings.items()):
        serving = Serving(
            model=model,
            cluster=costs.cluster,
            profile=profile,
            costs=lambda _clock: costs,
            overrides=Overrides(
                enable_chunked_prefill=False,
                max_num_batched_tokens=prompt * batch,
                max_num_seqs=batch,
                max_model_len=min(model.max_position, prompt + tokens),
                gpu_memory_utilization=0.95,
                num_gpu_blocks=-(-batch * (prompt + tokens) // 16) + 1,
            ),
            priced=priced,
        )
        workload = Workload(
            name="batch",
            arrival_s=np.zeros(batch),
            prompt_tokens=np.full(batch, prompt),
            output_tokens=np.full(batch, tokens),
        )
        median = {
            name: float(np.median([float(row[name]) for row in rows]))
            for name in ("prompt_time", "token_time", "average_power")
        }
        measured = {
            "measured_prompt_s": median["prompt_time"] / 1e3,
            "measured_token_s": median["token_time"] / 1e3,
            "measured_power_frac": median["average_power"] or _NAN,
        }
        shape = {"tp": tp, "prompt": prompt, "batch": batch, "tokens": tokens}
        implied = 2 * model.active_parameters() * prompt * batch / (tp * measured["measured_prompt_s"])
        if implied > MOST_OF_PEAK * peak:
            start = Refusal(plan=parse_plan(f"tp{tp}"), reason=f"measured time implies {implied / peak:.0%} of peak")
        elif prompt + tokens > model.max_position:
            start = Refusal(plan=parse_plan(f"tp{tp}"), reason=f"longer than the context of {model.max_position}")
        else:
            start = serving.start(parse_plan(f"tp{tp}"), workload)
        if isinstance(start, Refusal):
            yield BatchRun(**shape, **measured, prompt_s=_NAN, token_s=_NAN, power_frac=_NAN, refused=start.reason)
            continue
        metrics = replay(serving, start, workload).metrics
        yield BatchRun(
            **shape,
            **measured,
            prompt_s=metrics["ttft_s"]["mean"],
            token_s=metrics["tpot_s"]["mean"],
            power_frac=metrics.get("mean_power_w", _NAN) / costs.cluster.device.tdp_w,
        )


def _eager(profile: EngineProfile) -> EngineProfile:
    return profile.model_copy(
        update={
            "graphs": profile.graphs.model_copy(update={"decode": "none"}),
            "host": profile.host.model_copy(
                update=dict.fromkeys(
                    (
                        "step_s",
                        "sequence_s",
                        "serial_step_s",
                        "serial_sequence_s",
                        "frontend_s",
                        "frontend_token_s",
                    ),
                    0.0,
                )
            ),
        }
    )
