"""Kernels of a vLLM built for CPUs: weights packed once per shape, sources chosen by name, and the real ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")

from costmodel.ops.small_ops import small_op  # noqa: E402 - torch first
from profiler.kernels.buffers import Buffers  # noqa: E402
from profiler.kernels.packed_weights import PackedWeights  # noqa: E402
from profiler.kernels.vllm_cpu_backend import VllmCpuBackend  # noqa: E402
from profiler.point import small_op_shape  # noqa: E402
from profiles_db.store import open_store  # noqa: E402
from tests.profiler.vllm_cpu_checks import every_op, gemm  # noqa: E402


def test_a_shape_is_packed_once_for_all_batches():
    """Later points of a shape find its copies packed, a hot one takes the first, and the oldest give way to memory."""
    buffers, packed, made = Buffers(torch.device("cpu"), cold_bytes=8192, seed=0), PackedWeights(20_000), []

    def pack(weight):
        made.append(weight.shape)
        return weight.clone()

    def copies(size):
        return packed.copies("bf16", [(32, size)], buffers, pack)

    buffers.begin(is_cold=True)
    first = copies(32)
    assert len({copy.data_ptr() for copy in first}) == 4  # 2,048 bytes each
    assert copies(32) == first
    buffers.begin(is_cold=False)
    assert copies(32)[0] is first[0]
    assert len(made) == 4
    buffers.begin(is_cold=True)
    copies(64)  # two of 4,096 bytes: both shapes are kept
    copies(32)
    assert len(made) == 6
    copies(128)  # 8,192 bytes more: the one not asked for last gives way
    copies(32)
    assert len(made) == 7
    copies(64)
    assert len(made) == 9


def test_formats_without_a_kernel_are_left_to_other_sources():
    """Rounded products, experts of other ranks and small ops that vLLM has no layer for have no kernel here."""
    backend = VllmCpuBackend()
    assert all(backend.kernels_for(op) for op in every_op())
    assert backend.kernels_for(gemm(1, "w8a8")) == ()
    assert backend.kernels_for(small_op_shape(small_op("embedding", rows=1, width=64, dtype="bf16"))) == ()


def test_kernels_names_the_sources_to_measure(tmp_path):
    """With --kernels torch a point is measured once, by torch; an unknown source is refused with those there are."""
    row = {"m": 1, "n": 64, "k": 64, "scaling": "none", "quantise": False, "dtype": "bf16"}
    manifest = tmp_path / "shapes.json"
    families = {"gemm": {"columns": list(row), "rows": [list(row.values())]}}
    manifest.write_text(json.dumps({"apex_shape_manifest": 1, "families": families}))
    command = [sys.executable, "-m", "simulator.cli", "profile", "--device", "cpu", "--manifest", str(manifest)]
    command += ["--db", str(tmp_path / "db"), "--exhaustive", "--kernels"]
    done = subprocess.run([*command, "torch"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = open_store(tmp_path / "db", bundled=None).read("gemm").to_pylist()
    assert [row["backend"] for row in rows] == ["torch.onednn"]
    refused = subprocess.run([*command, "torch,cublas"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "'cublas' is no source of kernels on this machine" in refused.stderr
    assert "here are torch" in refused.stderr


def test_real_kernels_run():
    """Every op runs through the kernels of the vLLM at APEX_VLLM_PYTHON, where that is a build for CPUs."""
    python = os.environ.get("APEX_VLLM_PYTHON", sys.executable)
    asked = "import pyarrow, vllm.platforms; print('on', vllm.platforms.current_platform.device_type)"
    found = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    if "on cpu" not in found.stdout:
        pytest.skip("APEX_VLLM_PYTHON names no interpreter with pyarrow and a vLLM built for CPUs")
    here = Path(__file__)
    known = [str(here.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(known)}
    command = [python, str(here.with_name("vllm_cpu_checks.py"))]
    done = subprocess.run(command, env=place, capture_output=True, text=True, check=False)
    assert f"ran {len(every_op())} ops" in done.stdout, done.stderr[-2000:]
