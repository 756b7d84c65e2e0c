"""Which numbers that are in use would change: prices by label, constants of the device, idle power, sustained clock."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu_report.markdown import APEX, spread, table
from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.cost_model import Source
from costmodel.families.all import OP_FAMILIES
from costmodel.families.rows import iter_row_ops
from costmodel.fitted_costs import load_costs
from costmodel.fitting.calibrate_constants import calibrate
from costmodel.fitting.measurements import read_measurements
from profiles_db.store import Store
from simulator.engine_profiles.bundled_profiles import newest_bundled
from simulator.engine_profiles.engine_profile import load_profile

_LARGE_ROWS: Final = 2048  # tokens of a product that is bound by arithmetic


class NoFitError(Exception):
    """The rows allow no fit; the message is what `apex fit` says."""


def own_fit(db: Path, cluster: ClusterSpec, folder: Path) -> Path:
    """Fit the rows as a user would; raises ``NoFitError``."""
    path = folder / "fit.parquet"
    command = [*APEX, "fit", "--db", str(db), "--device", cluster.device.name, "--cluster", cluster.name]
    done = subprocess.run([*command, "--out", str(path)], check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoFitError(done.stderr.strip().splitlines()[0])
    return path


def prices(own: Store, cluster: ClusterSpec, before: Path | None, after: Path | NoFitError) -> str:
    """Tell by how much prices at the measured sizes change with the fit ``after`` of the rows, label by label."""
    title = "## Prices that would change\n\n"
    if isinstance(after, NoFitError):
        return title + f"No fit: {after}\n\n"
    lines = list(_lines(own, cluster, before, after))
    if not lines:
        return title + "No row has a time.\n\n"
    of = "the analytic model" if before is None else "the bundled fit"
    text = (
        f"Price of a fit that has these rows over that of {of}, at the sizes that were measured. A kernel that the\n"
        "engine does not run moves no price of a table; where one moves by more than its interval, look why first.\n\n"
    )
    return (
        title
        + text
        + table(("family", "format", "kernel", "priced so far", "#points", "#p10", "#median", "#p90"), lines)
    )


def _lines(own: Store, cluster: ClusterSpec, before: Path | None, after: Path) -> Iterator[tuple[str, ...]]:
    old, new = (load_costs(path, cluster) for path in (before, after))
    for name, family in OP_FAMILIES.items():
        if not own.read(name, device=cluster.device.name).num_rows:
            continue
        measured = read_measurements(own, family, cluster.device.name, None)
        found: dict[tuple[str, str, str], list[float]] = {}
        for columns in filter(None, (measured.columns, measured.aside)):
            for op, rows in iter_row_ops(family, columns, cluster):
                first, second = old.predict(op), new.predict(op)
                ratio = np.broadcast_to(second.latency_s / first.latency_s, len(rows))
                source = np.broadcast_to(first.source, len(rows))
                for index, row in enumerate(rows.tolist()):
                    priced = Source(int(source[index])).name.lower()
                    key = (str(columns["dtype"][row]), str(columns["backend"][row]), priced)
                    found.setdefault(key, []).append(float(ratio[index]))
        for key, ratios in sorted(found.items()):
            yield (name, *key, *spread(np.array(ratios)))


def constants(own: Store, cluster: ClusterSpec, runs: list[dict[str, Any]]) -> str:
    """Hold the device's constants, its idle power and the engine's sustained slowdown against these rows."""
    title = "## Constants that would change\n\n"
    device = cluster.device
    lines: list[tuple[str, ...]] = []
    try:
        calibrated = calibrate(own, cluster)
    except UserError as error:
        calibrated = []
        title += f"No constant of the device: {error}\n\n"
    for found in calibrated:
        group, _, name = found.key.rpartition(".")
        stated = device.analytic.gemm_efficiency.get(name) if group else getattr(device.analytic, name)
        if stated is not None:
            lines.append(_line(f"`[analytic] {found.key}`", stated.value, found.value, found.source))
    idle = [run["idle_power_w"] for run in runs if run["idle_power_w"] is not None]
    if idle:
        lines.append(_line("`idle_w`, W", device.idle_w, float(np.mean(idle)), f"idle windows of {len(idle)} runs"))
    lines += list(_sustained(own, device.name, runs))
    if not lines:
        return title + "None was measured.\n\n"
    text = "The floor is that of these sizes: tiny products, which set the one of tables, are not among them.\n\n"
    return title + text + table(("constant", "#now", "#then", "#change", "from"), lines)


def _sustained(own: Store, device: str, runs: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield how much slower products of each format become in seconds, beside what the newest profile says."""
    told: dict[str, float] = {}
    for run in runs:
        told |= json.loads(run["sustained_clocks"] or "{}")
    newest = newest_bundled("vllm")
    assert newest is not None
    stated = load_profile(newest).sustained_load.slowdown_frac
    rows = own.read("gemm", device=device).to_pylist()
    for dtype, sustained_mhz in told.items():
        burst = [
            row["sm_clock_mhz"]
            for row in rows
            if row["dtype"] == dtype and row["m"] >= _LARGE_ROWS and row["sm_clock_mhz"] is not None
        ]
        if burst:
            boost_mhz = float(np.median(burst))
            yield _line(
                f"`sustained_load.slowdown_frac` of {newest}, {dtype}",
                float(stated),
                boost_mhz / sustained_mhz - 1.0,
                f"{boost_mhz:.0f} MHz in bursts of {len(burst)} products, {sustained_mhz:.0f} MHz after seconds of one",
            )


def _line(name: str, now: float, then: float, source: str) -> tuple[str, ...]:
    return name, f"{now:.3g}", f"{then:.3g}", f"{then / now - 1:+.1%}" if now else "-", source


def what_would_prove_it(device: str, db: Path, imported: Path | None, framework: str) -> str:
    """Print the commands that tell whether the campaign is of use: its rows and the tables', as one fit."""
    tables = "build/accuracy/db" if imported is None else imported
    replay = (
        f"python -m benchmarks.fidelity --groundtruth ../shared/groundtruth --brief --server {device.partition('-')[0]}"
    )
    return (
        "## Whether it was of use\n\n"
        "The campaign is of use only if predictions of measured servers get better by it. These commands tell; a fit\n"
        "that makes them worse is not to be bundled, whatever the tables above say.\n\n"
        "```\n"
        f"apex db merge --db build/with {tables} {db}\n"
        f"apex fit --db build/with --device {device} --framework {framework} --prior none \\\n"
        "    --out build/with.fit.parquet\n"
        f"{replay}\n"
        f"{replay} --costs build/with.fit.parquet\n"
        "```\n"
    )
