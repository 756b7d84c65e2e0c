"""Writers in several processes, one of them killed: no row is lost and none is half there."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from profiles_db.merging import compact_files
from profiles_db.store import Store, open_store
from profiles_db.verify import verify

GemmRow = Callable[..., dict[str, Any]]

# Appends rows m = 1..count one by one and says so after each, so that the test knows what was promised.
WRITER = """
import sys
from pathlib import Path
from profiles_db.store import open_store
folder, run_id, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = open_store(folder, bundled=None)
row = dict(n=1, k=1, scaling="none", quantise=False, device="cpu", backend="torch.mkl", dtype="fp32", launch="eager",
           cache="hot", latency_s=1e-3, status="ok", origin="measured")
for m in range(1, count + 1):
    store.append("gemm", [{**row, "m": m}], run_id)
    print(m, flush=True)
"""


def _writer(folder: Path, run_id: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), run_id, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    """Two processes that append the same shapes at once leave every row of both."""
    writers = [_writer(tmp_path, run_id, 40) for run_id in ("a", "b")]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    rows = open_store(tmp_path, bundled=None).read("gemm", columns=["run_id", "m"]).to_pylist()
    assert sorted((row["run_id"], row["m"]) for row in rows) == [(run, m) for run in "ab" for m in range(1, 41)]


def test_a_killed_writer_loses_at_most_the_row_in_flight(tmp_path: Path) -> None:
    """After SIGKILL every row that was reported as written is there, and what is left over is ignored."""
    writer = _writer(tmp_path, "killed", 10_000)
    assert writer.stdout is not None
    reported = [int(writer.stdout.readline()) for _ in range(20)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    rest, _ = writer.communicate()
    reported = max([reported, *(int(line) for line in rest.split())])
    stored = open_store(tmp_path, bundled=None).read("gemm")["m"].to_pylist()
    assert sorted(stored) in ([*range(1, reported + 1)], [*range(1, reported + 2)])


def test_a_temporary_file_is_ignored_and_reported(store: Store, gemm_row: GemmRow) -> None:
    """What a killed writer leaves behind is no data, and ``verify`` says that it is there."""
    (path,) = store.append("gemm", [gemm_row()], "a")
    path.with_name(f".{path.name}.0123.tmp").write_bytes(path.read_bytes()[:50])
    assert store.read("gemm").num_rows == 1
    assert [finding.kind for finding in verify(store)] == ["left over", "no run record"]


def test_readers_see_every_row_once_while_files_are_compacted(tmp_path: Path) -> None:
    """A reader beside a writer and a compactor never misses a reported row and never sees one twice."""
    writer = _writer(tmp_path, "a", 60)
    store = open_store(tmp_path, bundled=None)
    while writer.poll() is None:
        seen = store.read("gemm")["m"].to_pylist()
        assert sorted(seen) == list(range(1, len(seen) + 1))
        compact_files(store)
    writer.communicate()
    compact_files(store)
    assert sorted(store.read("gemm")["m"].to_pylist()) == list(range(1, 61))
    assert len(list((tmp_path / "cpu" / "gemm").glob("*.parquet"))) == 1


def test_compactors_at_once_agree(store: Store, gemm_row: GemmRow) -> None:
    """A compaction that was cut before it deleted, and a later one over more files, show every row once."""
    for m in range(1, 4):
        store.append("gemm", [gemm_row(m=m)], "a")
    folder = store.root / "h100-sxm" / "gemm"
    originals = {path: path.read_bytes() for path in folder.glob("*.parquet")}
    compact_files(store)
    for path, content in originals.items():
        path.write_bytes(content)  # as if the compactor had been killed before deleting
    assert sorted(store.read("gemm")["m"].to_pylist()) == [1, 2, 3]
    first = {path: path.read_bytes() for path in folder.glob("compact-*.parquet")}
    store.append("gemm", [gemm_row(m=4)], "a")
    compact_files(store)
    for path, content in (originals | first).items():
        path.write_bytes(content)
    assert sorted(store.read("gemm")["m"].to_pylist()) == [1, 2, 3, 4]


def test_a_run_may_be_named_like_a_compaction(store: Store, gemm_row: GemmRow) -> None:
    """Rows of a run whose name starts like a compacted file's are neither hidden nor hide others."""
    store.append("gemm", [gemm_row(m=1)], "compact-run")
    for m in (2, 3):
        store.append("gemm", [gemm_row(m=m)], "a")
    assert sorted(store.read("gemm")["m"].to_pylist()) == [1, 2, 3]
    compact_files(store)
    store.append("gemm", [gemm_row(m=4)], "compact-run")
    assert sorted(store.read("gemm")["m"].to_pylist()) == [1, 2, 3, 4]


def test_two_compactors_lose_nothing(tmp_path: Path, gemm_row: GemmRow) -> None:
    """Several processes that compact one database at once leave every row exactly once."""
    store = open_store(tmp_path, bundled=None)
    for m in range(1, 61):
        store.append("gemm", [gemm_row(m=m)], "a")
    program = "import sys; from simulator.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "db", "merge", "--compact", "--db", str(tmp_path)]
    compactors = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for compactor in compactors:
        _, complaint = compactor.communicate()
        assert (compactor.returncode, complaint) == (0, "")
    assert sorted(store.read("gemm")["m"].to_pylist()) == list(range(1, 61))


def _apex(*arguments: object) -> "subprocess.Popen[str]":
    program = "import sys; from simulator.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: "subprocess.Popen[str]") -> None:
    _, complaint = process.communicate()
    assert process.returncode == 0, complaint
    assert "Traceback" not in complaint


def test_imports_and_merges_at_once_store_every_row_once(tmp_path: Path) -> None:
    """Three imports of one folder and three merges of another into one database leave each row exactly once."""
    source, db = tmp_path / "tables", tmp_path / "db"
    source.mkdir()
    for clock in range(12):
        lines = [f"H100-SXM-80GB,half,1024,1024,{n},{50 + n}" for n in range(1, 17)]
        (source / f"gemm_{clock}.csv").write_text("\n".join(["gpu,dtype,m,k,n,time(us)", *lines]) + "\n")
    other = open_store(tmp_path / "other", bundled=None)
    row = {"n": 1, "k": 1, "scaling": "none", "quantise": False, "device": "h100-sxm", "backend": "b", "dtype": "bf16"}
    row |= {"launch": "eager", "cache": "hot", "status": "ok", "origin": "measured"}
    for run in range(12):
        other.append(
            "gemm", [{**row, "m": m, "latency_s": 1e-4 + 1e-6 * m + run * 1e-8} for m in range(1, 17)], f"r{run}"
        )
    writers = [_apex("import", "apex-plus", source, "--db", db) for _ in range(3)]
    writers += [_apex("db", "merge", tmp_path / "other", "--db", db) for _ in range(3)]
    for writer in writers:
        _finish(writer)
    store = open_store(db, bundled=None)
    table = store.read("gemm")
    assert table.num_rows == 2 * 12 * 16
    assert table.group_by(["run_id", "m", "clock_mhz", "latency_s"]).aggregate([]).num_rows == 2 * 12 * 16
    assert not [finding for finding in verify(store) if finding.is_serious]


def test_a_writer_waits_for_the_one_before_it(tmp_path: Path, gemm_row: GemmRow) -> None:
    """What looks up and adds in one block is not disturbed: an append of another process comes after it."""
    store = open_store(tmp_path, bundled=None)
    with store.writing():
        writer = _writer(tmp_path, "other", 1)
        store.append("gemm", [gemm_row()], "mine")
        assert store.read("gemm").num_rows == 1
    writer.communicate()
    assert writer.returncode == 0
    assert open_store(tmp_path, bundled=None).read("gemm").num_rows == 2
