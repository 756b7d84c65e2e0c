"""Speed and memory of the whole product against the stated targets; writes docs/performance.md (``make bench``).

Runs the other benchmarks as processes of their own and puts their numbers on one page, targets that are missed
included. Needs the ``import-aic`` and ``fit`` extras; takes about four minutes on two cores.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from command_times import run
from performance_targets import STREAMED_REQUESTS, Measured, targets

FOLDER: Final = Path(__file__).resolve().parent
PAGE: Final = FOLDER.parent / "docs" / "performance.md"
APEX: Final = (sys.executable, "-c", "from simulator.cli import main; main()")
TABLES: Final = ("--system", "h200_sxm", "--framework", "vllm", "--version", "0.24.0")
TRACE_REQUESTS: Final = 300_000

# Measured late in 2026 with each peer's own commands; the machine was not recorded.
PEERS: Final = (
    ("apex_plus", "Llama-70B on 8 GPUs, 512 requests, 26 plans", "284 CPU-s", "47 requests x plans per CPU-s"),
    ("AISimulate 0.13 dev", "chat trace, one plan, warm", "2.5-2.8 CPU-s fixed", "6,000-14,000 requests per CPU-s"),
    ("AISimulate 0.13 dev", "search on 8 GPUs, 63 points", "18 CPU-s", "1.5 GB installed"),
    ("aiconfigurator 0.12", "search on 8 GPUs, 370-650 points", "8-10 CPU-s", "closed forms, no trace"),
    ("BLIS", "one plan", "", "11-1,040 requests per s"),
    ("Vidur", "one plan, after 27 s to 40 min of training", "", "232-794 requests per CPU-s, up to 4.7 GB"),
    ("LLMServingSim 2", "one plan", "", "0.8-1.9 requests per s"),
)


def main() -> None:
    """Measure and write the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["NUMBA_CACHE_DIR"] = str(folder)
        # What is timed cold goes first: the cache fills as the others run.
        engine = printed("engine.py", "--json", "--repeats", "9", environment=environment)
        fit, fitted = measure_fit(folder, environment)
        measured = Measured(
            engine=engine,
            stream=printed("engine_memory.py", "--json", "--requests", str(STREAMED_REQUESTS), environment=environment),
            compile=printed("plan_compile.py", "--costs", str(fitted), environment=environment),
            commands=printed("command_times.py", environment=environment),
            fit=fit,
            store=printed("measurement_store.py", environment=environment),
            traces=printed("traces.py", "--requests", str(TRACE_REQUESTS), environment=environment),
        )
    PAGE.write_text("\n".join([*head(), *sections(measured)]) + "\n", encoding="utf-8")
    missed = [target.what for target in targets(measured) if not target.is_met]
    print(f"wrote {PAGE.name}; missed: {', '.join(missed) or 'nothing'}")


def printed(script: str, *arguments: str, environment: dict[str, str]) -> Any:
    """Run a benchmark of this folder and return the JSON it prints."""
    print(f"{script} ...", file=sys.stderr, flush=True)
    command = [sys.executable, str(FOLDER / script), *arguments]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(found.stdout)


def measure_fit(folder: Path, environment: dict[str, str]) -> tuple[dict[str, float], Path]:
    """Import the H200's tables, fit them and load the result; returns what it took and the file."""
    database, path = folder / "db", folder / "h200.parquet"
    imported = run([*APEX, "import", "aiconfigurator", *TABLES, "--db", str(database)], environment)
    fitted = run([*APEX, "fit", "--db", str(database), "--device", "h200-sxm", "--out", str(path)], environment)
    load = (
        "import time, pathlib, sys; from costmodel.fit_file.artefact import load_artefact\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "def once():\n  begun = time.process_time(); load_artefact(path); return time.process_time() - begun\n"
        "print(min(once() for _ in range(5)))"
    )
    command = [sys.executable, "-c", load, str(path)]
    load_s = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)
    taken = {"import_cpu_s": imported.cpu_s, "wall_s": fitted.wall_s, "cpu_s": fitted.cpu_s}
    return {
        **taken,
        "peak_bytes": fitted.peak_bytes,
        "load_cpu_s": load_s,
        "file_bytes": path.stat().st_size,
    }, path


def head() -> list[str]:
    """State what was measured, on what and when."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "pyarrow", "pydantic"))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        "# Performance",
        "",
        f"Generated by `make bench` on {datetime.now(tz=UTC):%Y-%m-%d}: {cpu_name()}, {os.cpu_count()} cores, "
        f"{memory_gib:.0f} GiB, load {os.getloadavg()[0]:.1f} at the end; Python {platform.python_version()}, "
        f"{packages}, apex-planner {version('apex-planner')}. Best of several runs everywhere; CPU time is user plus "
        "system. Only speed is on this page: that leaping over steps equals stepping, and the rest of what the engine "
        "guarantees, is tested (`docs/concepts/invariants.md`).",
        "",
    ]


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table, the first column to the left."""
    rule = ["---", *("---:" for _ in names[1:])]
    return [*(f"| {' | '.join(cells)} |" for cells in (names, rule, *rows)), ""]


def sections(measured: Measured) -> list[str]:
    """Return the body of the page."""
    engine, commands, fit = measured.engine, measured.commands, measured.fit
    setup = commands["environment"]
    return [
        "## Targets",
        "",
        *table(
            ("target", "aim", "reached", "met"),
            [(one.what, one.aim, one.reached, "yes" if one.is_met else "**no**") for one in targets(measured)],
        ),
        "## The engine alone, one core, compiled",
        "",
        *table(
            ("case", "ms", "requests/s", "steps/s", "mean batch", "preemptions"),
            [
                (
                    name,
                    f"{row['seconds'] * 1e3:.2f}",
                    *(f"{row[key]:,.0f}" for key in ("requests_per_s", "iterations_per_s")),
                    f"{row['mean_batch_seqs']:.0f}",
                    f"{row['preemptions']:,.0f}",
                )
                for name, row in engine.items()
                if "requests_per_s" in row
            ],
        ),
        f"Compiling the engine takes {engine['first run']['seconds']:.1f} s, once per version. "
        f"{measured.stream['finished']:,} streamed requests ({measured.stream['steps']:,} steps) take "
        f"{measured.stream['seconds']:.1f} s and {measured.stream['peak_bytes'] / 1e6:,.0f} MB.",
        "",
        "## Compiling a plan into step tables, ms of CPU time",
        "",
        "*Known*: another plan of the search has asked for the same op curves. *Unknown*: the first plan. *Never "
        "asked*: the first plan of a cost model just loaded, which prepares its curves.",
        "",
        *table(
            ("model", "plan (8 x H200)", "prices", "curves", "known", "unknown", "never asked"),
            [
                (
                    *(str(row[key]) for key in ("model", "plan", "costs", "curves")),
                    *(f"{row[key] * 1e3:.2f}" for key in ("known_s", "unknown_s", "never_asked_s")),
                )
                for row in measured.compile
            ],
        ),
        "## Whole commands, each a fresh process",
        "",
        f"In an environment with the core dependencies only ({setup['size_bytes'] / 1e6:,.0f} MB, set up in "
        f"{setup['setup_s']:.0f} s). Every plan is simulated, none is pruned; intervals of the ten best are included.",
        "",
        *table(
            ("command", "plans", "wall s", "CPU s", "peak MB", "requests x plans per CPU-s"), command_rows(commands)
        ),
        *(f"`{row['trace']}`: {row['left_out']}." for row in commands["searches"] if "left_out" in row),
        "Peers, measured late in 2026 with their own commands on a machine not recorded: compare orders of magnitude.",
        "",
        *table(("peer", "case", "time", "rate or cost"), PEERS),
        "## Measurements and fits",
        "",
        f"H200 tables of `aiconfigurator-core` (vLLM 0.24.0): imported in {fit['import_cpu_s']:.1f} CPU-s, fitted with "
        f"held-out errors in {fit['cpu_s']:.1f} CPU-s ({fit['wall_s']:.1f} s, peak {fit['peak_bytes'] / 1e6:,.0f} MB), "
        f"loaded in {fit['load_cpu_s'] * 1e3:.0f} ms of CPU time from {fit['file_bytes'] / 1e6:.1f} MB.",
        "",
        *table(
            ("store", "rows", "CPU s", "rows/s"),
            [
                (name.replace("_", " "), f"{row['rows']:,}", f"{row['cpu_s']:.2f}", f"{row['rows_per_s']:,}")
                for name, row in measured.store.items()
                if isinstance(row, dict)
            ],
        ),
        "## Traces",
        "",
        *table(
            ("step", "CPU s", "requests/s", "peak MB"),
            [
                (
                    name,
                    f"{row['cpu_s']:.2f}",
                    f"{row['requests_per_s']:,}",
                    f"{row['peak_mib'] * 2**20 / 1e6:.0f}" if "peak_mib" in row else "",
                )
                for name, row in measured.traces.items()
            ],
        ),
    ]


def command_rows(commands: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Lay out one row per command."""
    rows = [
        (label, "", f"{row['wall_s']:.2f}", f"{row['cpu_s']:.2f}", f"{row['peak_bytes'] / 1e6:,.0f}", "")
        for label, row in (
            ("`apex --help`", commands["help"]),
            ("`apex simulate`, 1,000 requests, first ever", commands["simulate_first"]),
            ("`apex search`, 1,000 requests, first ever", commands["search_first"]),
            ("`apex simulate`, 1,000 requests", commands["simulate"]),
        )
    ]
    for row in commands["searches"]:
        if "left_out" in row:
            continue
        label = f"`apex search`: {row['model']}, {row['cluster']}, {row['requests']:,} requests of {row['trace']}"
        plans = f"{row['enumerated']} ({row['simulated']} start)"
        rate = row["requests"] * row["simulated"] / row["cpu_s"]
        cost = (f"{row['wall_s']:.2f}", f"{row['cpu_s']:.2f}", f"{row['peak_bytes'] / 1e6:,.0f}")
        rows.append((label, plans, *cost, f"{rate:,.0f}"))
    return rows


if __name__ == "__main__":
    main()
