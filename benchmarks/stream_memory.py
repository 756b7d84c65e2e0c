"""Peak memory and time of `apex simulate` on ever more requests, whole and streamed.

Run ``python benchmarks/stream_memory.py``. Each line is a process of its own: three runs for the interval and one row
per request in a file. Whole runs stop where streaming starts by itself.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from simulator.workload.parts import WHOLE_REQUESTS

RUN = ("simulate", "--model", "llama-3.2-1b", "--cluster", "h100-sxm-8", "--plan", "dp8", "--json")


def measure(requests: int, *more: str) -> tuple[float, float]:
    """Return seconds and peak MiB of one simulation."""
    with tempfile.TemporaryDirectory() as folder:
        trace = f"synthetic:isl=200,osl=20,rate=400,n={requests}"
        arguments = [*RUN, "--trace", trace, "--requests-out", str(Path(folder) / "requests.parquet"), *more]
        start = time.perf_counter()
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "simulator.cli", *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)],
        )
        _, status, usage = os.wait4(child, 0)
        if status:
            raise SystemExit(f"apex {' '.join(arguments)} failed")
        return time.perf_counter() - start, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Print one line per number of requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, nargs="+", default=[1_000, 100_000, 1_000_000, 10_000_000])
    for requests in parser.parse_args().requests:
        for kind in ("--no-stream", "--stream"):
            if kind == "--stream" or requests <= WHOLE_REQUESTS:
                seconds, peak_mib = measure(requests, kind)
                print(f"{requests:>12,} requests {kind:<12} {seconds:8.1f} s {peak_mib:8,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
