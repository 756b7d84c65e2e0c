"""What a user waits for at the prompt: time, CPU time and peak memory of whole `apex` commands, each a fresh process.

Run ``python benchmarks/command_times.py``; prints one JSON object. The commands run in an environment that holds the
core dependencies only (``make setup`` into a temporary folder, which compiles the engine), with a folder of their own
for engines compiled later. Runs are repeated and the one with the least CPU time is kept.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
TRACES: Final = ROOT.parent / "shared" / "groundtruth" / "traces"
REPEATS: Final = 5
SEARCHES: Final = (
    ("llama-3.1-70b", "h100-sxm-8", "chat-synthetic"),
    ("llama-3.1-70b", "h100-sxm-8", "azure_2023_conv.csv"),
    ("mixtral-8x7b", "h100-sxm-8", "chat-synthetic"),
    ("deepseek-v3", "h200-sxm-2x8", "chat-synthetic"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def run(command: Sequence[str], environment: dict[str, str]) -> Run:
    """Run ``command`` to its end; its output is shown only when it fails."""
    with tempfile.TemporaryFile() as output:
        files = [(os.POSIX_SPAWN_DUP2, output.fileno(), stream) for stream in (1, 2)]
        begun = time.perf_counter()
        process = os.posix_spawn(command[0], command, environment, file_actions=files)
        _, status, usage = os.wait4(process, 0)
        wall_s = time.perf_counter() - begun
        if os.waitstatus_to_exitcode(status) != 0:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{output.read().decode()}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(wall_s=wall_s, cpu_s=usage.ru_utime + usage.ru_stime, peak_bytes=usage.ru_maxrss * unit)


def best(command: Sequence[str], environment: dict[str, str], repeats: int = REPEATS) -> Run:
    """Least CPU time of several runs."""
    return min((run(command, environment) for _ in range(repeats)), key=lambda one: one.cpu_s)


def size_bytes(folder: Path) -> int:
    """Sum of the file sizes in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())


def first_runs(apex: str, simulate: Sequence[str], environment: dict[str, str], folder: Path) -> Run:
    """Run twice, each time with nothing compiled but at installation."""
    runs = []
    for name in ("first", "second"):
        cache = folder / f"cache-{name}"
        cache.mkdir()
        runs.append(run([apex, *simulate], {**environment, "XDG_CACHE_HOME": str(cache)}))
    return min(runs, key=lambda one: one.cpu_s)


def searches(apex: str, environment: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """Search with everything compiled; traces that are not there are left out and named."""
    rows = []
    for model, cluster, trace in SEARCHES:
        path = TRACES / trace if "." in trace else trace
        if isinstance(path, Path) and not path.exists():
            rows.append({"model": model, "cluster": cluster, "trace": trace, "left_out": "no such trace here"})
            continue
        result = folder / "search.json"
        command = [apex, "search", "--model", model, "--cluster", cluster, "--trace", str(path), "-o", str(result)]
        run(command, environment)
        taken = best(command, environment, 3)
        found = json.loads(result.read_text())
        rows.append(
            {
                "model": model,
                "cluster": cluster,
                "trace": trace,
                "requests": found["inputs"]["requests"],
                **found["counts"],
                **asdict(taken),
            }
        )
    return rows


def main() -> None:
    """Set up the environment, run the commands, print the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Compiled at installation, so the folder of what was compiled before goes.
        shutil.rmtree(ROOT / "simulator" / "engine" / "native" / "built", ignore_errors=True)
        make = shutil.which("make") or "make"
        setup = run([make, "--directory", str(ROOT), "setup", f"VENV={folder / 'venv'}"], dict(os.environ))
        apex = str(folder / "venv" / "bin" / "apex")
        # Bytecode is kept between runs, as it is for a user, whatever this process was told.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["XDG_CACHE_HOME"] = str(folder / "cache")
        trace = folder / "chat.csv"
        run([apex, "trace", "generate", "synthetic:chat,rate=2,n=1000,seed=0", "-o", str(trace)], environment)
        served = ("--model", "llama-3.1-70b", "--cluster", "h100-sxm-8", "--trace", str(trace))
        simulate = ("simulate", "--plan", "tp4", *served)
        results = {
            "environment": {
                "setup_s": setup.wall_s,
                "setup_cpu_s": setup.cpu_s,
                "size_bytes": size_bytes(folder / "venv"),
            },
            "help": asdict(best([apex, "--help"], environment)),
            "simulate_first": asdict(first_runs(apex, simulate, environment, folder)),
            "search_first": asdict(run([apex, "search", *served], environment)),
            "simulate": asdict(best([apex, *simulate], environment)),
            "searches": searches(apex, environment, folder),
        }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
