"""Recorded runs, open-loop runs and fixed batches: servers whose requests or rates are known one by one."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.fidelity.batch_runs import DEVICES, BatchRun, replay_batches
from benchmarks.fidelity.errors import Errors, errors
from benchmarks.fidelity.open_loop import replay_open_loop
from benchmarks.fidelity.page.tables import table
from benchmarks.fidelity.recorded_runs import RecordedRun, replay_recorded
from benchmarks.fidelity.replay import bundled

_RECORDED_DEVICE: Final = "h100-sxm"
_OVERLOAD_S: Final = 1.0


def recorded_section(groundtruth: Path) -> Iterator[str]:
    """Compare recorded traces on vLLM 0.6."""
    yield (
        "## Recorded traces: vLLM 0.6.0, Llama-3.1-70B bf16 on H100\n\n"
        "Recorded requests (22 runs and data-parallel groups at 0.25 and 0.5 requests/s), each on the replica that "
        "served\nit. Host time per step and sequence of profile `vllm-0.6` comes from the 11 single-server runs; the "
        "data-parallel\ngroups are the check. MAPE / median / p90 / signed bias in percent.\n\n"
    )
    runs = list(replay_recorded(groundtruth, bundled(_RECORDED_DEVICE)))
    rows = []
    for label, chosen in (
        ("11 single servers", [run for run in runs if "DP" not in run.name]),
        ("11 data-parallel groups", [run for run in runs if "DP" in run.name]),
    ):
        rows.append((label, *(str(_run_errors(chosen, value)) for value in ("ttft_s", "tpot_s", "e2e_per_token_s"))))
    yield table(("runs", "TTFT", "time per output token", "E2E per output token"), rows)


def _run_errors(runs: Sequence[RecordedRun], value: str) -> Errors | None:
    return errors([getattr(run, value) for run in runs], [getattr(run, f"measured_{value}") for run in runs])


def open_loop_section(groundtruth: Path) -> Iterator[str]:
    """Compare runs at constant rates on vLLM 0.15, and count stable stages that are predicted as overloads."""
    yield (
        "## Open loops: vLLM 0.15 at constant rates, prompts that repeat\n\n"
        "13 runs of CodeLlama-34B, Mixtral-8x7B, Llama-2-70B and Llama-2-7B on H100 and A100, stage by stage. MAPE / "
        "median / p90 /\nsigned bias in percent. All were stable: an *overload* is a mean TTFT above a second.\n\n"
    )
    found = list(replay_open_loop(groundtruth, bundled))
    rows = []
    for label, chosen in (
        ("whole runs", [stage for stage in found if stage.stage == "all"]),
        ("stages", [stage for stage in found if stage.stage != "all"]),
    ):
        cells = [
            str(errors([getattr(stage, f"{name}_s") for stage in chosen], [stage.measured_s(name) for stage in chosen]))
            for name in ("e2e", "itl", "ttft")
        ]
        rows.append((label, len(chosen), *cells, sum(stage.ttft_s > _OVERLOAD_S for stage in chosen)))
    yield table(("what", "number", "E2E", "ITL", "TTFT", "overloads"), rows)


def batch_section(path: Path) -> Iterator[str]:
    """Compare fixed batches, power included."""
    yield (
        "## Fixed batches with measured power: Llama-2-70B fp16\n\n"
        "Public logs of batch runs; mean power as a fraction of TDP, recorded on A100 only. The power model's shares "
        "of TDP\nwere read off these A100 runs, so that its row is not a test; times are. Prompts beyond the model's "
        "context and\nprompt times that imply more than 60 % of the dense peak are left out.\n\n"
    )
    rows = []
    for hardware, device in DEVICES.items():
        runs = list(replay_batches(path, hardware, bundled(device)))
        kept = [run for run in runs if run.refused is None]
        cells = [str(_batch_errors(kept, value) or "not recorded") for value in ("prompt_s", "token_s", "power_frac")]
        rows.append((device, len(kept), *cells, len(runs) - len(kept)))
    yield table(("device", "settings", "prompt time", "time per token", "mean power", "left out"), rows)
    yield (
        "These runs prefill large batches at a third of the rate of one long prompt (A100 tp 4: 127 ms for 512 "
        "tokens,\n2.9 s for 16 x 512), which no engine modelled here does: that is where prompt time is missed.\n\n"
    )


def _batch_errors(runs: Sequence[BatchRun], value: str) -> Errors | None:
    known = [run for run in runs if not math.isnan(getattr(run, f"measured_{value}"))]
    return errors([getattr(run, value) for run in known], [getattr(run, f"measured_{value}") for run in known])


def repeat_noise(pairs: Sequence[tuple[object, float]]) -> float | None:
    """Return the median relative difference between two measurements of one setting; None without repeats."""
    groups: dict[object, set[float]] = {}
    for key, value in pairs:
        groups.setdefault(key, set()).add(value)
    spread = [max(found) / min(found) - 1 for found in groups.values() if len(found) > 1]
    return float(np.median(spread)) if spread else None
