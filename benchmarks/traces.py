"""How fast traces are generated, written and read, and in how much memory they stream: ``python benchmarks/traces.py``.

Prints one JSON object: requests per second and CPU seconds of each step, and the peak memory of a process that streams
a trace of ``--requests`` requests next to one that streams a tenth of it (equal when memory is bounded). Published
traces are timed too when given as arguments.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from simulator.workload.generators.generate import LENGTH_MIXES, Synthetic
from simulator.workload.traces.own_files import write_trace
from simulator.workload.traces.read_trace import iter_trace, read_trace

SUFFIXES = (".parquet", ".csv", ".jsonl")


def timed(step: Callable[[], int]) -> dict[str, float]:
    """Run a step that returns its number of requests."""
    wall, cpu = time.perf_counter(), time.process_time()
    requests = step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"requests": requests, "cpu_s": round(cpu, 3), "requests_per_s": round(requests / wall)}


def streamed(path: Path) -> int:
    """Stream a trace without keeping it."""
    return sum(map(len, iter_trace(path)))


def peak_mib() -> int:
    """Peak resident memory of this process; Linux' own counter, as getrusage's starts from the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def peak_mib_of_streaming(path: Path) -> int:
    """Peak memory of a fresh process that streams ``path``."""
    found = subprocess.run(
        [sys.executable, __file__, "--stream", str(path)], check=True, capture_output=True, text=True
    )
    return int(found.stdout)


def main() -> None:
    """Print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream:
        streamed(options.stream)
        print(peak_mib())
        return
    results: dict[str, object] = {}
    for path in options.traces:
        read_trace(path)
        results[f"read {path.name}"] = timed(lambda path=path: len(read_trace(path)))
    with tempfile.TemporaryDirectory() as folder:
        for count in (options.requests // 10, options.requests):
            drawn = []
            results[f"generate {count}"] = timed(
                lambda count=count, drawn=drawn: (
                    drawn.append(Synthetic(count=count, lengths=LENGTH_MIXES["chat"]).whole()) or count
                )
            )
            for suffix in SUFFIXES:
                path = Path(folder) / f"{count}{suffix}"
                write_trace(drawn[0], path)
                results[f"stream {path.name}"] = {
                    **timed(lambda path=path: streamed(path)),
                    "peak_mib": peak_mib_of_streaming(path),
                }
                path.unlink()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
