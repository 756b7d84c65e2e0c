"""Our Triton kernels, interpreted on a CPU in a fresh process, compiled where a GPU is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")
pytest.importorskip("triton", reason="Triton is not installed")


CHECKS = [
    Path(__file__).with_name(f"triton_{part}checks.py")
    for part in ("", "gemm_", "attention_", "memory_", "scan_", "custom_")
]


def test_kernels_compute_what_they_should_and_no_more():
    """Every check of every file holds; one process runs them all, since loading torch takes as long as a file."""
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-q", *map(str, CHECKS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
