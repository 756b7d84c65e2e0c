"""Watts of Llama-2-70B on A100, each tensor-parallel degree predicted by shares of TDP that the others gave.

    python -m benchmarks.fidelity.power_left_out --groundtruth DIR

Mean power is joules over time, and the engine of these runs is not recorded: where its replay takes other times, its
watts are off by as much. What the power model says of a run is therefore asked at the times that were measured,

    P / TDP = awake + (1 - awake) z + stream y,

with y the share of the time that the run's bytes need at the stated bandwidth, and z the share its FLOPs need at the
calibrated rate, at which a device draws TDP. ``awake`` and ``stream`` are least squares over the settings of the other
degrees, each degree weighing the same. Links are left out: 80 pJ per byte are below a watt here.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity.batch_runs import DEVICES, POWER, replay_batches
from benchmarks.fidelity.page.tables import table
from cluster_specs.device import DeviceSpec
from cluster_specs.load import load_device
from costmodel.fitting.fit_power import non_negative_least_squares
from costmodel.power_model import PowerModel
from simulator.calibration.evidence import TPOT, TTFT
from simulator.plan.plan import parse_plan
from simulator.validation.predict import Predictor, ValidatedRun

F64 = NDArray[np.float64]

HARDWARE: Final = "a100-80gb"  # the one whose power was recorded
TARGET_FRAC: Final = 0.12  # mean error of each degree that is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRuns:
    """Settings whose power was recorded: per device and setting, as shares of TDP and of the measured time."""

    tp: NDArray[np.int64]
    measured: F64
    simulated: F64
    stream: F64  # y
    gemm: F64  # z

    @classmethod
    def of(cls, runs: Sequence[ValidatedRun], device: DeviceSpec) -> "PowerRuns":
        """Read the settings with recorded power off their replays."""
        known = [run for run in runs if POWER in run.run.measured and POWER in run.predicted]
        rows = [_row(run, device) for run in known]
        tp, measured, simulated, stream, gemm = (np.array(column) for column in zip(*rows, strict=True))
        return cls(tp=tp.astype(np.int64), measured=measured, simulated=simulated, stream=stream, gemm=gemm)

    def fitted(self, kept: NDArray[np.bool_]) -> F64:
        """Return awake and stream share of TDP by least squares over the settings ``kept``."""
        weight = 1.0 / np.sqrt(np.array([np.count_nonzero(self.tp[kept] == degree) or 1 for degree in self.tp]))
        design = np.column_stack([1.0 - self.gemm, self.stream]) * weight[:, None]
        return np.asarray(non_negative_least_squares(design[kept], ((self.measured - self.gemm) * weight)[kept]))

    def predicted(self, shares: Sequence[float] | F64) -> F64:
        """Return power at the measured times under the shares."""
        awake, stream = shares
        return np.asarray(awake * (1.0 - self.gemm) + stream * self.stream + self.gemm)

    def left_out(self) -> tuple[F64, dict[int, F64]]:
        """Predict each degree by the others; the shares that did it, by degree."""
        found, shares = np.zeros_like(self.measured), {}
        for degree in np.unique(self.tp).tolist():
            asked = self.tp == degree
            shares[degree] = self.fitted(~asked)
            found[asked] = self.predicted(shares[degree])[asked]
        return found, shares


def power_section(runs: Sequence[ValidatedRun]) -> Iterator[str]:
    """Write the table of the page."""
    device = load_device(DEVICES[HARDWARE])
    power = PowerModel.from_device(device)
    known = PowerRuns.of(runs, device)
    today = known.predicted((power.awake_w / device.tdp_w, power.j_per_byte * device.memory_bytes_per_s / device.tdp_w))
    left_out, shares = known.left_out()
    rows = []
    for degree in [*np.unique(known.tp).tolist(), None]:
        chosen = np.full(len(known.tp), fill_value=True) if degree is None else known.tp == degree
        sides = (known.simulated, today, left_out)
        cells = [_spelled(side[chosen] / known.measured[chosen] - 1.0) for side in sides]
        told = "-" if degree is None else " and ".join(f"{share:.2f}" for share in shares[degree])
        rows.append(("all" if degree is None else f"tp{degree}", np.count_nonzero(chosen), *cells, told))
    yield (
        "Mean power of the A100 runs, errors in percent (MAPE / median / p90 / signed bias). *Simulated*: joules and "
        "times of the\nreplay. *Measured times*: the power model's joules of the same work over the times that were "
        "measured, with its shares\nof TDP, which come from these runs. *Left out*: the same with shares fitted to the "
        f"other degrees; each shall be within\n{TARGET_FRAC:.0%}. Clocks and power caps were at their defaults: how "
        "power falls with the clock, and what a cap does, is tested by\nno data.\n\n"
    )
    columns = ("plan", "settings", "simulated", "measured times", "left out", "awake and stream share without it")
    yield table(columns, rows)


def _row(run: ValidatedRun, device: DeviceSpec) -> tuple[float, ...]:
    measured, predicted = run.run.measured, run.predicted
    plan = parse_plan(run.run.deployment.plan)
    tokens = int(run.run.workload.output_tokens[0])
    seconds = measured[TTFT] + (tokens - 1) * measured[TPOT]
    simulated_s = predicted["duration_s"]
    # MFU is of the dense peak, which the calibrated rate is a share of.
    gemm_s = predicted["mfu_frac"] * simulated_s / device.analytic.gemm_efficiency["fp16"].value
    stream_s = predicted["mbu_frac"] * simulated_s
    watts = (measured[POWER] / device.tdp_w, predicted[POWER] / device.tdp_w)
    return plan.tp, *watts, stream_s / seconds, gemm_s / seconds


def _spelled(errors: F64) -> str:
    sizes = np.abs(errors)
    every = (sizes.mean(), np.median(sizes), np.quantile(sizes, 0.9))
    return f"{' / '.join(f'{100 * size:.1f}' for size in every)} / {100 * errors.mean():+.1f}"


def main() -> None:
    """Replay the settings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groundtruth", type=Path, default=Path("../shared/groundtruth"))
    options = parser.parse_args()
    path = options.groundtruth / "power" / "splitwise_llama2_70b.csv"
    if not path.is_file():
        sys.exit(f"{path} is missing\nhint: --groundtruth DIR names the folder of measured serving data")
    runs = [run for run in replay_batches(path, HARDWARE, Predictor()) if isinstance(run, ValidatedRun)]
    sys.stdout.writelines(power_section(runs))


if __name__ == "__main__":
    main()
