"""The journal: what survives a death, and what is said about the point that caused it."""

import json
import os

import pytest

from cluster_specs.errors import UserError
from cluster_specs.files.whole import TEMPORARY_SUFFIX
from profiler.journal import MAX_DEATHS, Journal, collect_leftovers, discard_leftovers, only_run_in
from profiler.ledger import Ledger
from profiler.point import OpShape, Point
from profiles_db.store import open_store


def point(m=1):
    op = OpShape.of("gemm", dtype="bf16", m=m, n=64, k=64, scaling="none", quantise=False)
    return Point(op=op, device="cpu", backend="torch.onednn", launch="eager", cache="cold")


def row(of):
    times = {"latency_s": 1e-3, "latency_p10_s": 9e-4, "latency_p90_s": 2e-3, "samples": 10}
    return {**of.columns, **times, "status": "ok", "note": None, "origin": "measured"}


@pytest.fixture
def folder(tmp_path):
    with only_run_in(tmp_path):
        yield tmp_path


def stored(folder):
    return sorted(open_store(folder, bundled=None).read("gemm", statuses=None)["m"].to_pylist())


def test_committed_rows_outlive_the_process(folder):
    """Rows committed before a death are stored by the next run, each once."""
    journal = Journal(folder, 0)
    for m in (1, 2, 3):
        journal.begin(point(m), "run-a")
        journal.commit("gemm", "run-a", [row(point(m))])
    assert Ledger(folder, "cpu").recover() == (3, 0)
    assert stored(folder) == [1, 2, 3]
    assert Ledger(folder, "cpu").recover() == (0, 0)
    assert stored(folder) == [1, 2, 3]


def test_rows_already_stored_are_not_stored_again(folder):
    """A death between storing the rows and clearing the journal doubles nothing."""
    Journal(folder, 0).commit("gemm", "run-a", [row(point(1)), row(point(2))])
    ledger = Ledger(folder, "cpu")
    ledger.add(collect_leftovers(folder).entries[:1])
    assert Ledger(folder, "cpu").recover() == (1, 0)
    assert stored(folder) == [1, 2]


def test_a_torn_line_is_counted_and_costs_only_itself(folder):
    """A line cut off by the death is counted; the lines before it are kept."""
    Journal(folder, 0).commit("gemm", "run-a", [row(point(1))])
    path = folder / ".profile" / "rows-0.jsonl"
    line = json.dumps({"family": "gemm", "run_id": "run-a", "row": row(point(2))})
    path.write_text(path.read_text() + line[: len(line) // 2])
    assert Ledger(folder, "cpu").recover() == (1, 1)
    assert stored(folder) == [1]


def test_a_point_that_hung_becomes_a_timeout(folder):
    """A point whose watchdog ended the process gets a row with status timeout and is not tried again."""
    journal = Journal(folder, 0)
    journal.begin(point(4), "run-a")
    journal.hang()
    ledger = Ledger(folder, "cpu")
    ledger.recover()
    assert point(4) in ledger
    table = open_store(folder, bundled=None).read("gemm", statuses=None)
    assert table["status"].to_pylist() == ["timeout"]


def test_a_point_that_keeps_killing_its_process_is_given_up(folder):
    """A point in flight at a death is tried again until it has died MAX_DEATHS times, then gets an error row."""
    for death in range(1, MAX_DEATHS + 1):
        Journal(folder, 1).begin(point(5), "run-a")
        ledger = Ledger(folder, "cpu")
        ledger.recover()
        assert (point(5) in ledger) == (death == MAX_DEATHS)
    assert open_store(folder, bundled=None).read("gemm", statuses=None)["status"].to_pylist() == ["error"]


def test_ranks_that_die_on_one_collective_count_once(folder):
    """Marks of two ranks on the same point are one death."""
    for rank in (0, 1):
        Journal(folder, rank).begin(point(6), "run-a")
    (death,) = collect_leftovers(folder).deaths
    assert death.deaths == 1


def test_discarded_leftovers_are_gone(folder):
    """After discarding, nothing is left to recover."""
    Journal(folder, 0).commit("gemm", "run-a", [row(point(1))])
    discard_leftovers(folder)
    assert collect_leftovers(folder).entries == ()


def test_a_mark_whose_writer_was_killed_leaves_no_file(folder):
    """The temporary file of a mark that was never put in place is neither read nor kept."""
    (folder / ".profile" / f".flight-0.json.0123{TEMPORARY_SUFFIX}").write_text('{"family": "ge')
    assert Ledger(folder, "cpu").recover() == (0, 0)
    assert [path.name for path in (folder / ".profile").iterdir()] == ["lock"]


def test_a_second_run_is_refused_by_name(folder):
    """Two runs into one folder: the second learns who holds it."""
    with (
        pytest.raises(UserError, match=f"another run is writing here .pid {os.getpid()}.") as caught,
        only_run_in(folder),
    ):
        pass
    assert "--db" in caught.value.hint


def test_the_lock_is_free_after_its_holder(tmp_path):
    """Leaving the lock lets the next run in."""
    with only_run_in(tmp_path):
        pass
    with only_run_in(tmp_path):
        assert (tmp_path / ".profile" / "lock").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    """A path that cannot hold a folder ends in one message with the path and a way out."""
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=r"file: cannot be written"), only_run_in(file):
        pass


def mark():
    """Return what a mark of a point in flight holds."""
    return json.dumps({"family": "gemm", "run_id": "run-a", "columns": point(9).columns, "hung": True})


def line(m):
    """Return a journalled row."""
    return json.dumps({"family": "gemm", "run_id": "run-a", "row": row(point(m))}) + "\n"


# A power cut leaves a file of no length, one that ends anywhere, or one whose last blocks the disk never got: zeros.
@pytest.mark.parametrize("name", ["flight-0.json", "deaths.json"])
@pytest.mark.parametrize(
    "content", ["", "HALF", "HALF" + "\0" * 4096, "\0" * 4096, "[1]", '{"family": "gemm"}'],
    ids=["empty", "half", "half and zeros", "zeros", "a list", "another's"],
)  # fmt: skip
def test_a_torn_mark_is_counted_and_dropped(folder, name, content):
    """What a power cut or another program left under a mark's name costs no row, and no point is given up for it."""
    Journal(folder, 1).commit("gemm", "run-a", [row(point(1))])
    whole = mark() if name == "flight-0.json" else json.dumps({mark(): MAX_DEATHS})
    (folder / ".profile" / name).write_text(content.replace("HALF", whole[: len(whole) // 2]))
    assert Ledger(folder, "cpu").recover() == (1, 1)
    assert Ledger(folder, "cpu").recover() == (0, 0)
    assert stored(folder) == [1]


@pytest.mark.parametrize(("content", "kept", "torn"), [
    ("", [], 0),
    ("\0" * 4096, [], 1),
    (line(2) + line(3)[:-40], [2], 1),
    (line(2) + line(3)[:-40] + "\0" * 4096, [2], 1),
    (line(2) + "\0" * 4096, [2], 1),
    (line(2) + "\0" * 200 + line(3)[100:] + line(4), [2, 4], 1),
    ("[1]\n" + line(2) + line(2), [2], 1),
], ids=["empty", "zeros", "half", "half and zeros", "zeros behind", "a hole of zeros", "twice"])  # fmt: skip
def test_a_torn_journal_keeps_its_whole_lines(folder, content, kept, torn):
    """Lines that a power cut left whole are stored once; what is no line any more is counted, its point to do again."""
    Journal(folder, 1).commit("gemm", "run-a", [row(point(1))])
    (folder / ".profile" / "rows-0.jsonl").write_text(content)
    ledger = Ledger(folder, "cpu")
    assert ledger.recover() == (1 + len(kept), torn)
    assert stored(folder) == [1, *kept]
    assert [m for m in (1, 2, 3, 4) if point(m) in ledger] == [1, *kept]
    assert not list((folder / ".profile").glob("rows-*"))


def test_rows_that_cannot_be_stored_name_what_to_remove(folder):
    """A journalled row with a value no row may have ends in one message with the files to remove."""
    Journal(folder, 0).commit("gemm", "run-a", [row(point(1)) | {"latency_s": -1.0}])
    with pytest.raises(UserError, match=r"\.profile: holds rows that cannot be stored: .*latency_s") as caught:
        Ledger(folder, "cpu").recover()
    assert "rows-*.jsonl" in caught.value.hint
