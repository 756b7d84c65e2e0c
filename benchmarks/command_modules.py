"""What each command imports, in modules: the part of its time that no machine is faster or slower at.

Run ``python -m benchmarks.command_modules`` in any environment; prints a line per command: modules of ours, of numpy
and of others, and which of the packages that take longest it needs. `tests/repository/test_imports_by_need.py` holds
the commands to ``BOUNDS``. Each command runs twice in a process of its own: what the first run keeps for later ones (a
fit that was checked, the compiled simulator) is there in the second, which is the one that counts.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OURS: Final = ("cluster_specs", "profiles_db", "costmodel", "simulator", "profiler")
# Of these a command that does not use them imports no module.
HEAVY: Final = (
    "numba",
    "llvmlite",
    "pydantic",
    "pyarrow",
    "rich",
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
    "bokeh",
    "jinja2",
    "torch",
)
_SERVED: Final = ("--model", "llama-3.1-70b", "--cluster", "h100-sxm-8", "--trace")
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "help": ("--help",),
    "search --help": ("search", "--help"),
    "clusters": ("clusters",),
    "models": ("models", "llama-3.1-70b"),
    "trace": ("trace", "describe", "chat-synthetic"),
    "simulate": ("simulate", "--plan", "tp8", *_SERVED, "chat-synthetic"),
    "simulate a generator": ("simulate", "--plan", "tp8", *_SERVED, "synthetic:chat,rate=2,n=100"),
    "simulate analytic": ("simulate", "--plan", "tp8", *_SERVED, "chat-synthetic", "--costs", "analytic"),
    "search": ("search", *_SERVED, "chat-synthetic"),
}

_SCRIPT: Final = """
import contextlib, io, json, sys
from simulator.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
    try:
        main(sys.argv[1:])
    except SystemExit as stop:
        if stop.code:
            sys.exit(said.getvalue())
json.dump(sorted(sys.modules), sys.stdout)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The most modules of ours, and the heavy packages that the command is let."""

    ours: int
    heavy: frozenset[str] = frozenset()


BOUNDS: Final[Mapping[str, Bound]] = {
    "help": Bound(ours=11),
    "search --help": Bound(ours=26),
    "clusters": Bound(ours=21),
    "models": Bound(ours=99),
    "trace": Bound(ours=74),
    "simulate": Bound(ours=312),
    "simulate a generator": Bound(ours=278),
    "simulate analytic": Bound(ours=312),
    "search": Bound(ours=326),
}


def modules(arguments: Sequence[str]) -> list[str]:
    """Return the names of the modules that a second run of a command has imported at its end."""
    environment, found = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, ""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"apex {' '.join(arguments)} failed:\n{done.stderr}")
        found = done.stdout
    names: list[str] = json.loads(found)
    return names


def top(names: Sequence[str]) -> list[str]:
    """Return the package that each module belongs to."""
    return [name.partition(".")[0] for name in names]


def main() -> None:
    """Print a line per command."""
    print(f"{'command':<22} {'ours':>5} {'numpy':>6} {'others':>7}  heavy")
    for name, arguments in COMMANDS.items():
        packages = top(modules(arguments))
        ours, numpy = sum(package in OURS for package in packages), packages.count("numpy")
        heavy = ", ".join(package for package in HEAVY if package in packages)
        print(f"{name:<22} {ours:>5} {numpy:>6} {len(packages) - ours - numpy:>7}  {heavy}")


if __name__ == "__main__":
    main()
