"""Recorded runs, open-loop runs and fixed batches: servers whose requests or rates are known one by one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.fidelity.batch_runs import DEVICES, POWER, replay_batches
from benchmarks.fidelity.open_loop import STAGES, WHOLE, replay_open_loop
from benchmarks.fidelity.page.tables import spelled, table
from benchmarks.fidelity.power_left_out import HARDWARE, power_section
from benchmarks.fidelity.recorded_runs import PER_ANSWERED, PER_DECODED, replay_recorded
from simulator.calibration.evidence import E2E, ITL, TPOT, TTFT
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.validation.summary import agreement

_OVERLOAD_S: Final = 1.0


def recorded_section(groundtruth: Path, predictor: Predictor) -> Iterator[str]:
    """Compare recorded traces on vLLM 0.6."""
    yield (
        "## Recorded traces: vLLM 0.6.0, Llama-3.1-70B bf16 on H100\n\n"
        "Recorded requests (22 runs and data-parallel groups at 0.25 and 0.5 requests/s), each on the replica that "
        "served\nit. Host time per step and sequence of profile `vllm-0.6` comes from the 11 single-server runs; the "
        "data-parallel\ngroups are the check. MAPE / median / p90 / signed bias in percent.\n\n"
    )
    runs = list(replay_recorded(groundtruth, predictor))
    rows = []
    for label in ("single servers", "data-parallel groups"):
        chosen = [run for run in runs if run.run.set == label]
        errors = (spelled(agreement(chosen, path)) for path in (TTFT, PER_DECODED, PER_ANSWERED))
        rows.append((f"{len(chosen)} {label}", *errors))
    yield table(("runs", "TTFT", "time per output token", "E2E per output token"), rows)


def open_loop_section(groundtruth: Path, predictor: Predictor) -> Iterator[str]:
    """Compare runs at constant rates on vLLM 0.15, and count stable stages that are predicted as overloads."""
    yield (
        "## Open loops: vLLM 0.15 at constant rates, prompts that repeat\n\n"
        "13 runs of CodeLlama-34B, Mixtral-8x7B, Llama-2-70B and Llama-2-7B on H100 and A100, stage by stage. MAPE / "
        "median / p90 /\nsigned bias in percent. All were stable: an *overload* is a mean TTFT above a second.\n\n"
    )
    found = list(replay_open_loop(groundtruth, predictor))
    rows = []
    for label in (WHOLE, STAGES):
        chosen = [run for run in found if run.run.set == label]
        cells = [spelled(agreement(chosen, path)) for path in (E2E, ITL, TTFT)]
        overloads = sum(run.predicted[TTFT] > _OVERLOAD_S for run in chosen)
        rows.append((label, len(chosen), *cells, overloads))
    yield table(("what", "number", "E2E", "ITL", "TTFT", "overloads"), rows)


def batch_section(path: Path, predictor: Predictor) -> Iterator[str]:
    """Compare fixed batches, power included."""
    yield (
        "## Fixed batches with measured power: Llama-2-70B fp16\n\n"
        "Public logs of batch runs; mean power as a fraction of TDP, recorded on A100 only. The power model's shares "
        "of TDP\nwere read off these A100 runs, so that its column here is no test (the table below is); times are. "
        "Prompts beyond the\nmodel's context and prompt times that imply more than 60 % of the dense peak are left "
        "out.\n\n"
    )
    rows = []
    replayed: dict[str, list[ValidatedRun]] = {}
    for hardware, device in DEVICES.items():
        runs = list(replay_batches(path, hardware, predictor))
        kept = [run for run in runs if isinstance(run, ValidatedRun)]
        replayed[hardware] = kept
        cells = [spelled(agreement(kept, metric), "not recorded") for metric in (TTFT, TPOT, POWER)]
        rows.append((device, len(kept), *cells, len(runs) - len(kept)))
    yield table(("device", "settings", "prompt time", "time per token", "mean power", "left out"), rows)
    yield (
        "These runs prefill large batches at a third of the rate of one long prompt (A100 tp 4: 127 ms for 512 "
        "tokens,\n2.9 s for 16 x 512), which no engine modelled here does: that is where prompt time is missed.\n\n"
    )
    yield from power_section(replayed[HARDWARE])


def repeat_noise(pairs: Sequence[tuple[object, float]]) -> float | None:
    """Return the median relative difference between two measurements of one setting; None without repeats."""
    groups: dict[object, set[float]] = {}
    for key, value in pairs:
        groups.setdefault(key, set()).add(value)
    spread = [max(found) / min(found) - 1 for found in groups.values() if len(found) > 1]
    return float(np.median(spread)) if spread else None
