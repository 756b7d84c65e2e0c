"""vLLM 0.6.0 serving Llama-3.1-70B on H100: recorded requests replayed, on the replica that served each.

A run's file holds what was really processed (arrival, prompt, generated tokens, replica). Chunked prefill is on with
512 tokens per step at tp 8 and tp 4, off at tp 2 (decision of that version by context length). Times compared: mean
TTFT where the run recorded it, mean inter-token time, and mean E2E per output token for data-parallel groups.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.fidelity.by_request import replayed_by_request
from simulator.calibration.evidence import TTFT
from simulator.validation.deployment import Deployment
from simulator.validation.measured_run import MeasuredRun
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.workload.traces.read_trace import read_trace

PER_DECODED: Final = "decode_s_per_token"  # time after first tokens over the tokens that follow them, of all requests
PER_ANSWERED: Final = "e2e_s_per_token"  # E2E over output tokens, of all requests
_COLUMNS: Final = {
    TTFT: "ttft_mean_ms",
    PER_DECODED: "tpot_per_output_token_ms",
    PER_ANSWERED: "e2e_over_output_token_ms",
}
_CHUNKED: Final = {"enable_chunked_prefill": True, "max_model_len": 32768}
_WHOLE: Final = {"enable_chunked_prefill": False, "max_model_len": 24272, "num_gpu_blocks": 24272 // 16 + 1}


def replay_recorded(groundtruth: Path, predictor: Predictor) -> Iterator[ValidatedRun]:
    """Replay every run and data-parallel group (by ``set``) that has a file of recorded requests."""
    with (groundtruth / "apex_vllm_h100_llama70b.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["row_kind"] in {"run", "group"}]
    for row in rows:
        dp, tp = int(row["DP"]), int(row["TP"])
        name = f"llama_{row['trace']}_{row['scale'].replace('.', '').rstrip('0') or '0'}"
        name += f"_{tp}TP" if dp == 1 else f"_{dp}DP{tp}TP"
        path = groundtruth / "runs" / f"{name}.jsonl"
        if path.is_file():
            yield _replayed(_run(row, name, path), predictor)


def _run(row: Mapping[str, str], name: str, path: Path) -> MeasuredRun:
    dp, tp = int(row["DP"]), int(row["TP"])
    settings: Mapping[str, Any] = _CHUNKED if tp > 2 else _WHOLE
    return MeasuredRun(
        name=name,
        place=str(path),
        tool="recorded",
        deployment=Deployment(
            model="llama-3.1-70b", cluster="h100-sxm-8", plan=f"dp{dp}-tp{tp}", engine="vllm-0.6", settings=settings
        ),
        workload=read_trace(path),
        measured={metric: float(row[column]) / 1e3 for metric, column in _COLUMNS.items() if row[column]},
        set="single servers" if dp == 1 else "data-parallel groups",
    )


def _replayed(run: MeasuredRun, predictor: Predictor) -> ValidatedRun:
    found, latencies = replayed_by_request(run, predictor)
    ttft_s, e2e_s, answers = latencies["ttft_s"], latencies["e2e_s"], run.workload.output_tokens
    predicted = {
        TTFT: float(ttft_s.mean()),
        PER_DECODED: float((e2e_s - ttft_s).sum()) / max(1, int((answers - 1).clip(0).sum())),
        PER_ANSWERED: float(e2e_s.sum() / answers.sum()),
    }
    return replace(found, predicted=predicted, outcome=None)
