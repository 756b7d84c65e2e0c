"""`make holdout`: what the fit makes of rows it has not seen, beside a forest and straight lines.

    python -m benchmarks.holdout [--device h200-sxm ...] [--foreign] [--folder build/holdout] [--out FILE]

It needs the extra ``import-aic``. Tables, the rows a fit may see and what the baselines predict stay below the folder
and are not made again; fits are. Without ``--out`` the page is printed.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.holdout.foreign import COUNTS, FAMILY, with_foreign
from benchmarks.holdout.page import page
from benchmarks.holdout.points import iter_points
from benchmarks.holdout.scores import Score, iter_scores, prices
from benchmarks.holdout.split import JUDGED, SEEN, without_held_out
from cluster_specs.files.whole import make_folder
from costmodel.fit_file.artefact import load_artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.measured_device import choose_cluster
from profiles_db.store import Store, open_store

FRAMEWORK: Final = "vllm-0.24.0"
SYSTEMS: Final = {"h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm", "b200": "b200_sxm"}
_APEX: Final = (sys.executable, "-c", "from simulator.cli import main; main()")


def main(arguments: Sequence[str]) -> int:
    """Hold out, fit, price, score; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.holdout", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", action="append", choices=sorted(SYSTEMS), help="repeatable (default: all)")
    parser.add_argument("--family", action="append", choices=JUDGED, help="repeatable (default: all)")
    parser.add_argument("--foreign", action="store_true", help="also add rows of a foreign kernel, on the first device")
    parser.add_argument("--folder", type=Path, default=Path("build/holdout"))
    parser.add_argument("--out", type=Path, help="file of the page")
    asked = parser.parse_args(arguments)
    devices = asked.device or list(SYSTEMS)
    scores: list[Score] = []
    fits = []
    for device in devices:
        found, took = scored(device, asked.family or JUDGED, asked.folder / device)
        scores += found
        fits.append(took)
    foreign = beside_foreign(devices[0], asked.folder / devices[0]) if asked.foreign else []
    text = page(scores, fits, foreign)
    if asked.out is None:
        print(text, end="")
        return 0
    asked.out.write_text(text)
    return 0


def scored(device: str, families: Sequence[str], folder: Path) -> tuple[list[Score], str]:
    """Fit what a device's fit may see, and score it on the rest; also says what fitting took."""
    store, seen = stores(device, folder)
    costs, took = fitted(seen, device, folder / "fit.parquet")
    scores = []
    for family in families:
        for points in iter_points(store, family, device, FRAMEWORK, costs.cluster):
            scores += iter_scores(device, points, costs, folder / "baselines")
    return scores, f"{device}: {took}"


def stores(device: str, folder: Path) -> tuple[Store, Store]:
    """Return the whole store of a device and the one a fit may see; made where they are not there yet."""
    whole, seen = folder / "db", folder / "seen"
    if not seen.exists():
        make_folder(folder)
        wanted = ("--system", SYSTEMS[device], "--framework", "vllm", "--version", FRAMEWORK.removeprefix("vllm-"))
        subprocess.run(
            [*_APEX, "import", "aiconfigurator", *wanted, "--db", str(whole)], check=True, capture_output=True
        )
        part = folder / "seen.part"
        shutil.rmtree(part, ignore_errors=True)
        without_held_out(open_store(whole, bundled=None), device, part)
        part.rename(seen)
    return open_store(whole, bundled=None), open_store(seen, bundled=None)


def fitted(store: Store, device: str, out: Path) -> tuple[FittedCosts, str]:
    """Run ``apex fit`` and open what it wrote; also says what it took."""
    words = ("fit", "--db", str(store.root), "--device", device, "--framework", FRAMEWORK, "--prior", "none")
    with subprocess.Popen(
        [*_APEX, *words, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        assert run.stdout is not None
        run.stdout.read()
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        raise SystemExit(f"apex {' '.join(words)} failed")
    artefact = load_artefact(out)
    rows = sum(report.used for report in artefact.reports)
    took = f"{rows:,} rows, {usage.ru_utime + usage.ru_stime:.0f} s of CPU time, {out.stat().st_size / 1e6:.1f} MB"
    return FittedCosts(artefact, choose_cluster(device, None)), took


def beside_foreign(device: str, folder: Path) -> list[str]:
    """Say what the tables' own held-out prefill points cost when rows of a foreign kernel are added."""
    store, seen = stores(device, folder)
    lines = []
    for count in COUNTS:
        place = folder / "foreign"
        shutil.rmtree(place, ignore_errors=True)
        costs, _ = fitted(with_foreign(seen, device, count, place), device, folder / "foreign.parquet")
        errors = []
        for points in iter_points(store, FAMILY, device, FRAMEWORK, costs.cluster):
            if points.name.startswith("prefill"):
                asked = points.take(points.held_out != SEEN)
                errors.append(np.abs(prices(asked, costs)[0] - np.log(asked.latency_s)))
        size = 100.0 * np.concatenate(errors)
        lines.append(f"{count} rows: {np.median(size):.2f} / {np.quantile(size, 0.9):.2f} over {len(size):,} points")
    return lines


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
