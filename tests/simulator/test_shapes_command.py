"""`apex shapes` as a user types it, and its manifest in the hands of the profiler."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles_db.manifest import load_manifest
from profiles_db.store import open_store

RunApex = Callable[..., "subprocess.CompletedProcess[str]"]
_SMALL = ("--max-num-seqs", "4", "--max-num-batched-tokens", "32", "--max-model-len", "128")


def test_counts_are_those_of_the_file(run_apex: RunApex, tmp_path: Path) -> None:
    """`--json` states per family and format what the written manifest holds."""
    path = tmp_path / "shapes.json"
    done = run_apex("shapes", "--model", "tiny-llama", "--cluster", "cpu-2", *_SMALL, "--json", "-o", str(path))
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    manifest = load_manifest(path)
    assert facts["shapes"] == manifest.num_shapes
    assert {family: sum(counts.values()) for family, counts in facts["families"].items()} == {
        family: table.num_rows for family, table in manifest.tables.items()
    }
    table = run_apex("shapes", "--model", "tiny-llama", "--cluster", "cpu-2", *_SMALL, "-o", str(path))
    assert f"{manifest.num_shapes:,}" in table.stdout.splitlines()[-1]
    assert "plans compiled" in table.stderr


def test_pools_ask_for_the_shapes_of_both(run_apex: RunApex, tmp_path: Path) -> None:
    """A plan of two pools asks for what its two layouts ask for, and says what is not measured with them."""
    path = tmp_path / "shapes.json"
    sizes = []
    for plans in (("--plan", "prefill.tp2+decode.tp1"), ("--plan", "tp2", "--plan", "tp1")):
        done = run_apex("shapes", "--model", "tiny-llama", "--cluster", "cpu-2", *_SMALL, *plans, "-o", str(path))
        assert done.returncode == 0, done.stderr
        sizes.append(load_manifest(path).num_shapes)
        assert ("between pools" in done.stderr) == ("+" in plans[1])
    assert sizes[0] == sizes[1]


def test_nothing_is_written_when_no_plan_starts(run_apex: RunApex, tmp_path: Path) -> None:
    """A model that fits nowhere ends with exit code 3, the reason, and no file."""
    path = tmp_path / "shapes.json"
    done = run_apex("shapes", "--model", "llama-3.1-405b", "--cluster", "l40s-1", "-o", str(path))
    assert done.returncode == 3
    assert "no plan can start on l40s-1" in done.stderr
    assert "GiB" in done.stderr
    assert not path.exists()


def test_mistakes_are_named(run_apex: RunApex, tmp_path: Path) -> None:
    """An unknown format, an unwritable place and a context beyond the model's each end in one message."""
    path = str(tmp_path / "s.json")
    common = ("shapes", "--model", "tiny-llama", "--cluster", "cpu-2")
    for arguments, code, part in (
        (("--weights", "fp9", "-o", path), 2, "'fp9' is not default or one of"),
        (("--max-model-len", "9999", "-o", path), 2, "max_model_len is 9999, must be at most 2048"),
        ((*_SMALL, "-o", "/proc/nowhere/s.json"), 1, "/proc/nowhere/s.json: cannot be written"),
    ):
        done = run_apex(*common, *arguments)
        assert done.returncode == code, done.stderr
        assert part in done.stderr
        assert "Traceback" not in done.stderr


def test_profiler_measures_the_manifest(run_apex: RunApex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`apex profile --manifest` measures every GEMM of the manifest, and nothing else."""
    path, db = tmp_path / "shapes.json", tmp_path / "db"
    least = ("--max-num-seqs", "1", "--max-num-batched-tokens", "1", "--max-model-len", "16")
    assert not run_apex(
        "shapes", "--model", "tiny-llama", "--cluster", "cpu-2", "--plan", "tp1", *least, "-o", str(path)
    ).returncode
    pytest.importorskip("torch", reason="apex profile needs torch")
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    for name, value in (rank | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    options = ("--device", "cpu", "--device-name", "here", "--families", "gemm", "--exhaustive")
    done = run_apex("profile", *options, "--manifest", path, "--db", db)
    assert done.returncode == 0, done.stderr
    asked = load_manifest(path).tables["gemm"].to_pylist()
    rows = open_store(db, bundled=None).read("gemm", statuses=None).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    measured = [{name: row[name] for name in asked[0]} for row in rows]
    assert sorted(map(str, measured)) == sorted(map(str, asked))
