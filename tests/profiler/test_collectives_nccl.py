"""Collectives over NCCL on real GPUs, captured and eager."""

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from profiler.collectives.kernels import KINDS, busbw_bytes_per_s  # noqa: E402 - torch first
from profiles_db.store import open_store  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL between ranks needs two GPUs"),
]
SIZES = (1 << 14, 1 << 26)
LEVELS = ("nvlink", "pcie")


def test_every_kind_is_measured_captured_and_eager(tmp_path):
    """Two ranks give a time for every collective in both launch modes; large messages take longer than small ones."""
    columns = ["kind", "ranks", "nodes", "level", "message_bytes", "dtype"]
    rows = [[kind, 2, 1, level, size, "bf16"] for kind in KINDS for level in LEVELS for size in SIZES]
    manifest = tmp_path / "shapes.json"
    table = {"columns": columns, "rows": rows}
    manifest.write_text(json.dumps({"apex_shape_manifest": 1, "families": {"collective": table}}))
    db = tmp_path / "db"
    command = [sys.executable, "-m", "simulator.cli", "profile", "--device", "cuda", "--nproc-per-node", "2"]
    command += ["--manifest", str(manifest), "--db", str(db), "--exhaustive"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = open_store(db, bundled=None).read("collective", statuses=None).to_pylist()
    nccl = {(row["kind"], row["launch"], row["message_bytes"]): row for row in table if row["backend"] == "nccl"}
    assert set(nccl) == {(kind, launch, size) for kind in KINDS for launch in ("graph", "eager") for size in SIZES}
    assert {row["status"] for row in nccl.values()} == {"ok"}, [row["note"] for row in nccl.values()]
    for kind in KINDS:
        for launch in ("graph", "eager"):
            small, large = (nccl[kind, launch, size]["latency_s"] for size in SIZES)
            assert small < large
            assert busbw_bytes_per_s(kind, 2, SIZES[1], large) < 2e12
