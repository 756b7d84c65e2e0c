"""Llama-2-70B fp16 in fixed batches on A100 and H100: prompt time, time per token and mean power of whole runs.

Each setting is one batch of equal prompts sent at once; all of it is prefilled in one step, then decoded. Power is
compared where it was recorded (A100 runs of 128 tokens or so; 0 elsewhere means not recorded), as a fraction of TDP.
The engine of these runs is not recorded: profile ``vllm-0.6`` stands in, without chunked prefill, without CUDA graphs
(they run eagerly: their time per token does not fall below that of the launches) and without a server's host time.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.fidelity.profile_changes import changed
from costmodel.ops.roofline import peak_flop_per_s
from simulator.calibration.evidence import TPOT, TTFT
from simulator.engine_profiles.engine_profile import load_profile
from simulator.serving import Serving
from simulator.validation.deployment import Deployment
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.workload.workload import Workload

DEVICES: Final = {"a100-80gb": "a100-sxm-80gb", "h100-80gb": "h100-sxm"}
PROFILE: Final = "vllm-0.6"
POWER: Final = "mean_power_w"
_WORK: Final = (POWER, "mfu_frac", "mbu_frac", "duration_s")  # what power is compared by
_MOST_OF_PEAK: Final = 0.60  # of the dense peak: a prompt time that implies more is not believed
_HOST_TIMES: Final = (
    "step_s",
    "sequence_s",
    "serial_step_s",
    "serial_sequence_s",
    "frontend_s",
    "frontend_token_s",
)
_EAGER: Final = {"graphs.decode": "none", **{f"host.{name}": 0.0 for name in _HOST_TIMES}}

Row = dict[str, str]
Shape = tuple[int, int, int, int]  # tensor parallel, prompt tokens, batch, answer tokens


def replay_batches(path: Path, hardware: str, predictor: Predictor) -> Iterator[ValidatedRun | UnusableRun]:
    """Replay every setting of ``hardware``, each with the medians over its repeats."""
    profile = changed(load_profile(PROFILE), _EAGER)
    settings: dict[Shape, list[Row]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["hardware"] == hardware:
                tp, prompt, batch, tokens = (
                    int(row[name]) for name in ("tensor_parallel", "prompt_size", "batch_size", "token_size")
                )
                settings[tp, prompt, batch, tokens].append(row)
    for shape, rows in sorted(settings.items()):
        deployment = _deployment(shape, DEVICES[hardware])
        serving = predictor.serving(deployment, profile)
        run = _run(shape, deployment, rows, serving.cluster.device.tdp_w)
        reason = _refusal(shape, run.measured[TTFT], serving)
        if reason is not None:
            yield UnusableRun(name=run.name, place=run.place, reason=reason)
            continue
        found = predictor.predict(run, profile, with_interval=False)
        if isinstance(found, ValidatedRun) and found.outcome is not None:
            predicted = dict(found.predicted)
            predicted |= {name: found.outcome.metrics[name] for name in _WORK if name in found.outcome.metrics}
            found = replace(found, predicted=predicted, outcome=None)
        yield found


def _deployment(shape: Shape, device: str) -> Deployment:
    tp, prompt, batch, tokens = shape
    return Deployment(
        model="llama-2-70b",
        cluster=f"{device}-8",
        plan=f"tp{tp}",
        engine=PROFILE,
        settings={
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": prompt * batch,
            "max_num_seqs": batch,
            "max_model_len": prompt + tokens,
            "gpu_memory_utilization": 0.95,
            "num_gpu_blocks": -(-batch * (prompt + tokens) // 16) + 1,
        },
    )


def _run(shape: Shape, deployment: Deployment, rows: Sequence[Mapping[str, str]], tdp_w: float) -> MeasuredRun:
    _, prompt, batch, tokens = shape
    medians = {
        name: float(np.median([float(row[name]) for row in rows]))
        for name in ("prompt_time", "token_time", "average_power")
    }
    measured = {TTFT: medians["prompt_time"] / 1e3, TPOT: medians["token_time"] / 1e3}
    if medians["average_power"]:
        measured[POWER] = medians["average_power"] * tdp_w
    name = f"{deployment.plan}: {batch} x {prompt} + {tokens}"
    return MeasuredRun(
        name=name,
        place=name,
        tool="batch",
        deployment=deployment,
        workload=Workload(
            name="batch",
            arrival_s=np.zeros(batch),
            prompt_tokens=np.full(batch, prompt),
            output_tokens=np.full(batch, tokens),
        ),
        measured=measured,
    )


def _refusal(shape: Shape, prompt_s: float, serving: Serving) -> str | None:
    """Say why a setting is not compared, None where it is."""
    tp, prompt, batch, tokens = shape
    implied = 2 * serving.model.active_parameters() * prompt * batch / (tp * prompt_s)
    peak = peak_flop_per_s(serving.cluster.device, "fp16")
    if implied > _MOST_OF_PEAK * peak:
        return f"measured time implies {implied / peak:.0%} of peak"
    if prompt + tokens > serving.model.max_position:
        return f"longer than the context of {serving.model.max_position}"
    return None
