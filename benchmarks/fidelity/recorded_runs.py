"""vLLM 0.6.0 serving Llama-3.1-70B on H100: recorded requests replayed, on the replica that served each.

A run's file holds what was really processed (arrival, prompt, generated tokens, replica). Chunked prefill is on with
512 tokens per step at tp 8 and tp 4, off at tp 2 (decision of that version by context length). Times compared: mean
TTFT where the run recorded it, mean inter-token time, and mean E2E per output token for data-parallel groups.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from costmodel.cost_model import CostModel
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.serving import Refusal, Serving
from simulator.simulate import replay
from simulator.steps.op_curves import OpCurves
from simulator.workload.traces.read_trace import read_trace

PROFILE: Final = "vllm-0.6"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """Measured and predicted means of one run; NaN where the run did not record the value."""

    name: str
    measured_ttft_s: float
    measured_tpot_s: float
    measured_e2e_per_token_s: float
    ttft_s: float
    tpot_s: float
    e2e_per_token_s: float


def replay_recorded(groundtruth: Path, costs: CostModel) -> Iterator[RecordedRun]:
    """Replay every run and data-parallel group that has a file of recorded requests."""
    model, profile = load_model("llama-3.1-70b"), load_profile(PROFILE)
    priced: dict[float | None, OpCurves] = {}
    with (groundtruth / "apex_vllm_h100_llama70b.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["row_kind"] in {"run", "group"}]
    for row in rows:
        dp, tp = int(row["DP"]), int(row["TP"])
        name = f"llama_{row['trace']}_{row['scale'].replace('.', '').rstrip('0') or '0'}"
        name += f"_{tp}TP" if dp == 1 else f"_{dp}DP{tp}TP"
        path = groundtruth / "runs" / f"{name}.jsonl"
        if not path.is_file():
            continue
        is_chunked = tp > 2
        serving = Serving(
            model=model,
            cluster=costs.cluster,
            profile=profile,
            costs=lambda _clock: costs,
            overrides=(
                Overrides(enable_chunked_prefill=True, max_model_len=32768)
                if is_chunked
                else Overrides(enable_chunked_prefill=False, max_model_len=24272, num_gpu_blocks=24272 // 16 + 1)
            ),
            priced=priced,
        )
        workload = read_trace(path)
        start = serving.start(parse_plan(f"dp{dp}-tp{tp}"), workload)
        if isinstance(start, Refusal):
            raise SystemExit(f"{name}: {start.reason}")
        run = replay(serving, start, workload).run
        ttft = (run.first_token_ps - run.arrival_ps) * 1e-12
        e2e = (run.finish_ps - run.arrival_ps) * 1e-12
        outputs = workload.output_tokens
        decoded = max(1, int((outputs - 1).clip(0).sum()))
        yield RecordedRun(
            name=name,
            measured_ttft_s=_ms(row["ttft_mean_ms"]),
            measured_tpot_s=_ms(row["tpot_per_output_token_ms"]),
            measured_e2e_per_token_s=_ms(row["e2e_over_output_token_ms"]),
            ttft_s=float(ttft.mean()),
            tpot_s=float((e2e - ttft).sum()) / decoded,
            e2e_per_token_s=float(e2e.sum() / outputs.sum()),
        )


def _ms(text: str) -> float:
    return float(text) / 1e3 if text else float("nan")
