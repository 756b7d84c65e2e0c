"""Fitted cost models for the measured groups, made with `apex fit` and kept in a folder."""

import subprocess
import sys
from pathlib import Path

from cluster_specs.load import load_cluster
from costmodel.cost_model import CostModel
from costmodel.fitted_costs import load_costs
from costmodel.pricing.analytic_costs import AnalyticCosts

_APEX = (sys.executable, "-c", "from simulator.cli import main; main()")


def fitted_costs(device: str, framework: str, *, db: Path | None, fits: Path) -> CostModel | None:
    """Load ``DEVICE.FRAMEWORK.parquet`` of ``fits``, fitting it from ``db`` first; None where there is neither."""
    path = fits / f"{device}.{framework}.parquet"
    if not path.is_file():
        if db is None:
            return None
        command = (*_APEX, "fit", "--db", str(db), "--device", device, "--framework", framework, "--out", str(path))
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            print(f"no fit of {device} for {framework}: {done.stderr.strip()}", file=sys.stderr)
            return None
    return load_costs(path, load_cluster(f"{device}-8"))


def analytic_costs(device: str) -> CostModel:
    """Return the analytic constants of a device, which need no measurement."""
    return AnalyticCosts(load_cluster(f"{device}-8"))
