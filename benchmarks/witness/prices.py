"""What this CPU takes for the ops of the models: shapes, measurements by vLLM's kernels, and the fit."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.witness.environment import ROOT, Environment
from benchmarks.witness.workloads import CONTEXT
from cluster_specs.errors import UserError

CLUSTER: Final = "cpu-1"
PLAN: Final = "tp1"
_LIMIT_S: Final = 120.0
_GRACE_S: Final = 90.0  # a run ends its last point after its budget


def apex(*words: str, limit_s: float = _LIMIT_S) -> str:
    """Run a command of this checkout's ``apex`` and return what it prints; raises ``UserError`` where it fails."""
    place = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "simulator.cli", *words]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": place},
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"apex {words[0]} took more than {limit_s:.0f} s") from error
    if done.returncode:
        raise UserError(f"apex {words[0]} ended with code {done.returncode}: {' '.join(done.stderr.split())[-600:]}")
    return done.stdout


def write_shapes(models: Sequence[Path], profile: Path, out: Path, *, sequences: int, tokens: int) -> None:
    """Write the shapes that steps of so many sequences and tokens ask for."""
    named = [word for model in models for word in ("--model", str(model))]
    limits = ["--max-num-seqs", str(sequences), "--max-num-batched-tokens", str(tokens)]
    apex(
        "shapes", *named, "--cluster", CLUSTER, "--plan", PLAN, "--engine", str(profile), *limits,
        "--max-model-len", str(CONTEXT), "-o", str(out),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilerRun:
    """One run of the profiler inside the server's environment, on the core that computes."""

    environment: Environment
    shapes: Path
    store: Path
    core: int
    budget_s: int

    def command(self) -> list[str]:
        """Return the command; it is the same that resumes it."""
        words = ["-m", "profiler", "--device", "cpu", "--kernels", "vllm,torch", "--manifest", str(self.shapes)]
        words += ["--db", str(self.store), "--budget", f"{self.budget_s}s", "--prior", "none"]
        return [str(self.environment.python), *words]

    def run(self) -> str:
        """Measure and return the summary; raises ``UserError`` where the profiler fails."""
        env = self.environment.variables(PYTHONPATH=self.environment.profiler_path, OMP_NUM_THREADS="1")
        process = subprocess.Popen(
            self.command(), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        os.sched_setaffinity(process.pid, {self.core})
        try:
            told, said = process.communicate(timeout=self.budget_s + _GRACE_S)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the profiler did not end {_GRACE_S:.0f} s after its budget") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            raise UserError(f"the profiler ended with code {process.returncode}: {said.strip()[-600:]}")
        return told


def fit(store: Path, out: Path) -> None:
    """Fit what was measured, vLLM's kernels first."""
    apex("fit", "--db", str(store), "--device", "cpu", "--framework", "vllm", "--prior", "none", "--out", str(out))
