"""How fast the measurement store imports, reads, checks and compacts: ``python benchmarks/measurement_store.py``.

Prints one JSON object: wall and CPU seconds and rows per second of each step, peak memory of the process. Needs
aiconfigurator-core (extra ``import-aic``).
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from profiles_db.importers.aiconfigurator import import_tables
from profiles_db.importers.aiconfigurator_wheel import SYSTEMS, open_wheel, select_tables
from profiles_db.merging import compact_files
from profiles_db.schema import FAMILIES
from profiles_db.store import Store, open_store
from profiles_db.verify import verify

SMALL_FILES = 500


def timed(step: Callable[[], int]) -> dict[str, float]:
    """Run a step that returns its number of rows."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows = step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"rows": rows, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "rows_per_s": round(rows / wall)}


def import_systems(store: Store, systems: list[str], frameworks: list[str], versions: list[str]) -> int:
    """Import and return how many foreign rows were read."""
    wheel = open_wheel()
    picked = [item for system in systems for item in select_tables(wheel, system, frameworks, versions)]
    return sum(count.rows_in for count in import_tables(wheel, picked, store))


def verified_rows(store: Store) -> int:
    """Verify everything; nothing of it may be serious."""
    if any(finding.is_serious for finding in verify(store)):
        raise SystemExit("the imported tables hold serious findings: apex db verify names them")
    return sum(pq.read_metadata(file.path).num_rows for file in store.iter_files())


def append_one_by_one(store: Store) -> int:
    """Write as a profiler does that may be killed at any time: one row, one file."""
    row = {
        "n": 1,
        "k": 1,
        "scaling": "none",
        "quantise": False,
        "device": "cpu",
        "backend": "torch.mkl",
        "dtype": "fp32",
    }
    row |= {"launch": "eager", "cache": "hot", "latency_s": 1e-3, "status": "ok", "origin": "measured"}
    for m in range(1, SMALL_FILES + 1):
        store.append("gemm", [{**row, "m": m}], "benchmark")
    return SMALL_FILES


def main() -> None:
    """Run all steps in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="import every system, framework and version of the wheel")
    everything = parser.parse_args().all
    systems, frameworks, versions = (
        (list(SYSTEMS), ["all"], ["all"]) if everything else (["h100_sxm"], ["vllm"], ["0.24.0"])
    )
    with tempfile.TemporaryDirectory() as folder:
        store, small = (open_store(Path(folder) / name, bundled=None) for name in ("imported", "small"))
        result = {
            "import": timed(lambda: import_systems(store, systems, frameworks, versions)),
            "read": timed(lambda: sum(store.read(family, device="h100-sxm").num_rows for family in FAMILIES)),
            "read_median": timed(lambda: store.read("gemm", device="h100-sxm", repeats="median").num_rows),
            "verify": timed(lambda: verified_rows(store)),
            "append_one_by_one": timed(lambda: append_one_by_one(small)),
            "read_small_files": timed(lambda: small.read("gemm").num_rows),
            "compact": timed(lambda: compact_files(small)[0]["rows"]),
            "read_compacted": timed(lambda: small.read("gemm").num_rows),
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    json.dump({**result, "peak_memory_bytes": peak}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
