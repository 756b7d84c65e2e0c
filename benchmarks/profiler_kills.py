"""Kills a 2-rank profile at random points and resumes it, to see whether a row is lost or there twice.

    python benchmarks/profiler_kills.py --kills 20

Each kill ends either one rank or every process of the run with SIGKILL, a random time after the run has started to
measure. Before each kill every row on disk (journal and store) is noted; at the end each of them must be in the store
with the very same time, and every point of the manifest exactly once.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from profiler.point import row_identity
from profiles_db.schema import FAMILIES
from profiles_db.store import open_store

GEMM_COLUMNS = ["m", "n", "k", "scaling", "quantise", "dtype"]
COLLECTIVE_COLUMNS = ["kind", "ranks", "nodes", "level", "message_bytes", "dtype"]
KINDS = ("all_reduce", "all_gather", "all_to_all")


def write_manifest(path: Path) -> int:
    """Write GEMMs in bf16, FP8 and W8A8 and collectives over two ranks; returns the number of points."""
    formats = (("bf16", "none"), ("fp8", "row"), ("w8a8", "row"))
    gemms = [
        [m, n, 256, scaling, False, dtype]
        for m in (1, 2, 4, 8, 16, 32, 64, 128)
        for n in (128, 256, 512, 1024)
        for dtype, scaling in formats
    ]
    collectives = [[kind, 2, 1, "memory", 1 << e, "bf16"] for kind in KINDS for e in range(10, 22, 2)]
    tables = {
        "gemm": {"columns": GEMM_COLUMNS, "rows": gemms},
        "collective": {"columns": COLLECTIVE_COLUMNS, "rows": collectives},
    }
    path.write_text(json.dumps({"apex_shape_manifest": 1, "families": tables}))
    return len(gemms) + len(collectives)


def on_disk(db: Path) -> dict[Any, float | None]:
    """Time of every row in the store and in whole journal lines, by identity."""
    rows = {}
    for path in (db / ".profile").glob("rows-*.jsonl"):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # the line being written
                entry = json.loads(line)
                rows[row_identity(entry["family"], entry["row"])] = entry["row"].get("latency_s")
    store = open_store(db, bundled=None)
    for family in FAMILIES:
        for row in store.read(family, statuses=None).to_pylist():
            rows[row_identity(family, row)] = row["latency_s"]
    return rows


def children(pid: int) -> list[int]:
    """Return the ranks a supervisor has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> None:
    """Run, kill, resume, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        db, manifest = Path(folder) / "db", Path(folder) / "shapes.json"
        points = write_manifest(manifest)
        command = [sys.executable, "-m", "simulator.cli", "profile", "--device", "cpu", "--nproc-per-node", "2"]
        command += ["--manifest", str(manifest), "--db", str(db), "--exhaustive", "--json"]
        seen: dict[Any, float | None] = {}
        started = time.monotonic()
        run, kills, restarts = None, {"one rank": 0, "all": 0}, 0
        while sum(kills.values()) < options.kills:
            if run is None or run.poll() is not None:
                if run is not None and run.returncode == 0:
                    break  # measured everything before the kills were used up
                run, restarts = (
                    subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL),
                    restarts + 1,
                )
            count = len(on_disk(db)) if db.exists() else 0
            deadline = time.monotonic() + 60
            while (
                run.poll() is None and time.monotonic() < deadline and len(on_disk(db) if db.exists() else ()) <= count
            ):
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 0.6))
            seen |= on_disk(db)
            ranks = [] if run.poll() is not None else children(run.pid)
            if len(ranks) < 2:
                continue
            kind = draw.choice(["one rank", "all"])
            with contextlib.suppress(ProcessLookupError):
                for pid in [draw.choice(ranks)] if kind == "one rank" else [run.pid, *ranks]:
                    os.kill(pid, signal.SIGKILL)
            if kind == "all":
                run.wait()
            kills[kind] += 1
        if run is not None and run.poll() is None:
            run.wait()
        final = subprocess.run(command, capture_output=True, text=True, check=True)
        outcome = json.loads(final.stdout.strip().splitlines()[-1])
        store = open_store(db, bundled=None)
        rows = [
            (row_identity(family, row), row["latency_s"])
            for family in FAMILIES
            for row in store.read(family, statuses=None).to_pylist()
        ]
        lost = sum(dict(rows).get(identity, "gone") != latency for identity, latency in seen.items())
        result = {
            "points": points,
            "kills": kills,
            "commands_started": restarts + 1,
            "rows_seen_before_kills": len(seen),
            "rows_lost": lost,
            "rows_twice": len(rows) - len(dict(rows)),
            "points_missing": points - len(dict(rows)),
            "last_run": {"measured": outcome["measured"], "already": outcome["already"]},
            "wall_s": round(time.monotonic() - started, 1),
        }
        print(json.dumps(result, indent=1))
        sys.exit(1 if lost or result["rows_twice"] or result["points_missing"] else 0)


if __name__ == "__main__":
    main()
