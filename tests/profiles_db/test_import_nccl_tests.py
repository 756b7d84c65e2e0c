"""nccl-tests output, old and new text and JSON: sizes, times, who took part, and rows that contradict themselves."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster_specs.errors import UserError
from profiles_db.importers.nccl_tests import import_nccl_tests
from profiles_db.store import Store

RANK = (
    "#  Rank {rank:2d} Group  0 Pid {pid} on {{host{half}}} device {rank:2d} [0000:0{rank}:00] NVIDIA H100 80GB HBM3\n"
)
RANKS = "".join(RANK.format(rank=rank, pid=900 + rank, half=rank // 4) for rank in range(8))
HEADER = """#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
"""
START = "# nccl-tests version 2.17 nccl-headers=22703 nccl-library=22703\n# Collective test starting: all_reduce_perf\n"
START += "# nThread 1 nGpus 8 minBytes 8 maxBytes 64 step: 2(factor) warmup iters: 1 iters: 20 agg iters: 1 graph: 0\n"


def _line(size: int, out: str, into: str, kind: str = "float") -> str:
    """One result line; ``out`` and ``into`` are time, algbw, busbw and #wrong of the two placements."""
    return f"  {size:10d}  {size // 4:10d}  {kind:>8}     sum      -1  {out}  {into}\n"


BODY = _line(1048576, "20.00 52.43 91.75 0", "21.00 49.93 87.38 0")
BODY += _line(2097152, "30.00 69.91 122.33 0", "31.00 67.65 118.39 N/A")


def _text(path: Path, *, start: str = START, hosts: tuple[str, str] = ("n0", "n0"), body: str = BODY) -> Path:
    ranks = RANKS.replace("{host0}", hosts[0]).replace("{host1}", hosts[1])
    path.write_text(f"{start}# Using devices\n{ranks}{HEADER}{body}# Out of bounds values : 0 OK\n")
    return path


def test_text_output(tmp_path: Path, store: Store) -> None:
    """Bytes stay, microseconds become seconds; ranks, device, library and iterations are read from the comments."""
    (count,) = import_nccl_tests([_text(tmp_path / "out.txt")], store)
    assert count.kept == 2
    row = store.read("collective").to_pylist()[0]
    expected = {
        "kind": "all_reduce",
        "ranks": 8,
        "nodes": 1,
        "level": "nvlink",
        "message_bytes": 1048576,
        "dtype": "fp32",
    }
    expected |= {"device": "h100-sxm", "backend": "nccl", "framework": "nccl-2.27.3", "samples": 20, "launch": "eager"}
    assert {**row, **expected} == row
    assert row["latency_s"] == pytest.approx(20e-6)


def test_in_place_figures(tmp_path: Path, store: Store) -> None:
    """The other half of the line is taken on request."""
    import_nccl_tests([_text(tmp_path / "out.txt")], store, placement="in_place")
    assert store.read("collective")["latency_s"].to_pylist() == pytest.approx([21e-6, 31e-6])


def test_two_hosts_are_two_nodes_on_the_network(tmp_path: Path, store: Store) -> None:
    """Distinct host names count the nodes; the link level is then the network's unless named."""
    import_nccl_tests([_text(tmp_path / "a.txt", hosts=("n0", "n1"))], store)
    import_nccl_tests([_text(tmp_path / "b.txt", hosts=("n0", "n1"))], store, level="rail")
    assert {(row["nodes"], row["level"]) for row in store.read("collective").to_pylist()} == {
        (2, "network"),
        (2, "rail"),
    }


def test_old_output_takes_the_kind_from_the_file_name(tmp_path: Path, store: Store) -> None:
    """Versions that do not print their name are told by the file's, or by the caller."""
    start = "# nThread 1 nGpus 8 minBytes 8 maxBytes 64 step: 2(factor) warmup iters: 5 iters: 20 graph: 1\n"
    import_nccl_tests([_text(tmp_path / "all_gather_perf_8.txt", start=start)], store)
    import_nccl_tests([_text(tmp_path / "x.txt", start=start)], store, kind="reduce_scatter")
    assert set(store.read("collective")["kind"].to_pylist()) == {"all_gather", "reduce_scatter"}
    assert set(store.read("collective")["launch"].to_pylist()) == {"graph"}
    with pytest.raises(UserError, match="does not say which program"):
        import_nccl_tests([_text(tmp_path / "y.txt", start=start)], store)


def test_rows_that_contradict_themselves_are_counted(tmp_path: Path, store: Store) -> None:
    """Wrong results, times that disagree with the bandwidth, empty messages and unknown types go, each counted."""
    body = BODY + _line(0, "0.50 0.00 0.00 0", "0.50 0.00 0.00 0")
    body += _line(4194304, "50.00 83.89 146.80 3", "51.00 82.24 143.92 0")
    body += _line(8388608, "90.00 13.21 23.12 0", "91.00 92.18 161.32 0")
    body += _line(16777216, "150.00 111.85 195.73 0", "151.00 111.11 194.44 0", "double")
    (count,) = import_nccl_tests([_text(tmp_path / "out.txt", body=body)], store)
    assert count.kept == 2
    assert count.dropped == {
        "message of 0 bytes": 1,
        "wrong result": 1,
        "time and bandwidth disagree": 1,
        "number format double has no counterpart": 1,
    }


def _document(**changes: Any) -> dict[str, Any]:
    devices = [{"rank": rank, "hostname": "n0", "device_info": "NVIDIA H200"} for rank in range(2)]
    config = {"nthreads": 1, "ngpus": 2, "iterations": 20, "graph": 0, "devices": devices}
    place = {"time": 100.0, "alg_bw": 10.48576, "bus_bw": 10.48576, "nwrong": None}
    result = {"size": 1048576, "count": 524288, "type": "half", "out_of_place": place, "in_place": None}
    document = {"version": 2, "args": ["./build/sendrecv_perf", "-J"], "nccl_version": 22703, "config": config}
    return {**document, "results": [result], **changes}


def test_json_output(tmp_path: Path, store: Store) -> None:
    """The JSON of -J says the same as the text."""
    path = tmp_path / "out.json"
    path.write_text(json.dumps(_document()))
    import_nccl_tests([path], store)
    (row,) = store.read("collective").to_pylist()
    assert (row["kind"], row["ranks"], row["device"], row["dtype"]) == ("send_recv", 2, "h200-sxm", "fp16")
    assert row["latency_s"] == pytest.approx(100e-6)


def test_host_time_is_no_latency(tmp_path: Path, store: Store) -> None:
    """With -C the column holds the time of the launching thread, which is dropped as missing."""
    place = {"cpu_time": 5.0, "alg_bw": 1.0, "bus_bw": 1.0, "nwrong": None}
    document = _document()
    document["results"][0]["out_of_place"] = place
    path = tmp_path / "out.json"
    path.write_text(json.dumps(document))
    assert import_nccl_tests([path], store)[0].dropped == {"latency missing": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello\n", "no result rows"),
        (BODY, "line 1: no header with two time columns"),
        (HEADER + "     1048576        262144     float     sum\n", "does not fit the header"),
        ("{}", "not the JSON of nccl-tests"),
        (json.dumps(_document(results=[])), "no result rows"),
        (json.dumps(_document(args=["hypercube_perf"])), "hypercube_perf is not one of"),
        ("\x00\xff", "cannot be read as text"),
    ],
)
def test_other_output_is_refused(text: str, words: str, tmp_path: Path, store: Store) -> None:
    """Anything else is one sentence with the file, and the line where there is one."""
    path = tmp_path / "out.txt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=words) as caught:
        import_nccl_tests([path], store)
    assert str(path) in str(caught.value)


def _run(
    program: str | None = "all_reduce_perf",
    *,
    hosts: tuple[str, ...] = ("n0",),
    per_host: int = 8,
    device: str = "NVIDIA H100 80GB HBM3",
    groups: int = 1,
    operator: str = "sum",
    factor: float = 1.75,
    library: str = "# nccl-tests version 2.17 nccl-headers=22703 nccl-library=22703\n",
    sizes: tuple[int, ...] = (1 << 20, 1 << 21),
) -> str:
    """One whole run as printed: header, ranks, results."""
    started = f"{library}# Collective test starting: {program}\n" if program else ""
    lines = started + "# nThread 1 nGpus 1 minBytes 8 maxBytes 64 warmup iters: 5 iters: 20 agg iters: 1 graph: 0\n"
    lines += "# Using devices\n"
    for index in range(len(hosts) * per_host):
        lines += f"#  Rank {index:2d} Group {index % groups:2d} Pid {900 + index} on {hosts[index // per_host]} "
        lines += f"device {index % per_host:2d} [0000:0{index % 8}:00] {device}\n"
    for size in sizes:
        algorithm = size / 50e-6 / 1e9
        figures = f"50.00 {algorithm:.2f} {algorithm * factor:.2f} 0"
        lines += ("" if size != sizes[0] else HEADER) + _line(size, figures, figures).replace("sum", operator)
    return lines + "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 1\n#\n"


def _imported(text: str, tmp_path: Path, store: Store, name: str = "out.txt", **options: Any) -> list[tuple[Any, ...]]:
    """Kind, ranks, nodes, level and device of the stored rows, with how many there are of each."""
    path = tmp_path / name
    path.write_text(text)
    import_nccl_tests([path], store, **options)
    names = ("kind", "ranks", "nodes", "level", "device")
    found = [tuple(row[name] for name in names) for row in store.read("collective").to_pylist()]
    return [(*key, found.count(key)) for key in sorted(set(found))]


def test_programs_run_one_after_the_other_keep_their_kinds(tmp_path: Path, store: Store) -> None:
    """Two programs appended to one file are two runs, each with its own rows; importing again adds nothing."""
    text = _run() + _run("alltoall_perf", operator="none", factor=0.875)
    expected = [("all_reduce", 8, 1, "nvlink", "h100-sxm", 2), ("all_to_all", 8, 1, "nvlink", "h100-sxm", 2)]
    assert _imported(text, tmp_path, store) == expected
    assert _imported(text, tmp_path, store) == expected


def test_repeated_runs_of_one_program_are_all_kept(tmp_path: Path, store: Store) -> None:
    """Two runs with the same figures to the digit are two measurements, not one and its copy."""
    assert _imported(_run() + _run(), tmp_path, store) == [("all_reduce", 8, 1, "nvlink", "h100-sxm", 4)]


def test_programs_without_names_are_refused_where_they_must_differ(tmp_path: Path, store: Store) -> None:
    """One file name cannot be true of a program that sums and of one that does not."""
    text = _run(None) + _run(None, operator="none", factor=0.875)
    with pytest.raises(UserError, match="two programs"):
        _imported(text, tmp_path, store, "all_reduce_perf.txt")


def test_runs_printed_into_one_another_are_refused(tmp_path: Path, store: Store) -> None:
    """Processes of a build without MPI each print ranks from zero: nothing is stored, the way out is named."""
    head, _, rows = _run().partition(HEADER)
    other = _run(hosts=("n1",)).partition(HEADER)[0]
    with pytest.raises(UserError, match=r"rank 0 is listed 2 times, so 2 runs") as caught:
        _imported(head + other + HEADER + rows, tmp_path, store)
    assert "MPI=1" in caught.value.hint
    assert not store.devices()


def test_rows_that_no_single_run_prints_are_refused(tmp_path: Path, store: Store) -> None:
    """A second process that opens late leaves its sizes between those of the first."""
    with pytest.raises(UserError, match="two runs printed into one another"):
        _imported(_run(sizes=(1 << 20, 1 << 22, 1 << 21, 1 << 23)), tmp_path, store)


def test_tags_of_a_launcher_tell_processes_apart(tmp_path: Path, store: Store) -> None:
    """Tags of mpirun and srun go; two tagged processes without MPI are two runs of one node each."""
    for mark in ("[1,{}]<stdout>:", "[prterun-n0@1,{}]<stdout>: ", "{}: ", "[{}] "):
        tagged = "".join(mark.format(0) + line for line in _run().splitlines(keepends=True))
        assert _imported(tagged, tmp_path, store)[0][:5] == ("all_reduce", 8, 1, "nvlink", "h100-sxm")
    pairs = zip(_run().splitlines(), _run(hosts=("n1",)).splitlines(), strict=True)
    mixed = "".join(f"[1,0]<stdout>:{one}\n[1,1]<stdout>:{other}\n" for one, other in pairs)
    assert _imported(mixed, tmp_path, store, "two.txt")[0] == ("all_reduce", 8, 1, "nvlink", "h100-sxm", 6)


def test_a_rack_of_trays_is_one_node(tmp_path: Path, store: Store) -> None:
    """72 ranks on 18 hosts of GB200 share one NVLink domain; twice as many cross the network between two."""
    hosts = tuple(f"tray{index}" for index in range(36))
    rack = {"per_host": 4, "device": "NVIDIA GB200", "factor": 2 * 71 / 72}
    one = _imported(_run(hosts=hosts[:18], **rack), tmp_path, store, "one.txt")
    assert one == [("all_reduce", 72, 1, "nvlink", "gb200", 2)]
    rack["factor"] = 2 * 143 / 144
    both = _imported(_run(hosts=hosts, **rack), tmp_path, store, "two.txt")
    assert both == [("all_reduce", 72, 1, "nvlink", "gb200", 2), ("all_reduce", 144, 2, "network", "gb200", 2)]


def test_groups_of_ranks_are_communicators(tmp_path: Path, store: Store) -> None:
    """Sixteen ranks split in eight groups, one rank of each host in each, are eight runs of two ranks."""
    text = _run(hosts=("n0", "n1"), groups=8, factor=1.0)
    assert _imported(text, tmp_path, store) == [("all_reduce", 2, 2, "network", "h100-sxm", 2)]


def test_amd_runs_are_rccls(tmp_path: Path, store: Store) -> None:
    """rccl-tests prints the same layout: its library is the backend, the fabric the link."""
    library = "# rccl-tests version 2.17.9 rccl-headers=22803 rccl-library=22803\nrccl-tests: Version develop:abc\n"
    text = _run(device="AMD Instinct MI300X", library=library)
    assert _imported(text, tmp_path, store) == [("all_reduce", 8, 1, "fabric", "mi300x", 2)]
    (row, _) = store.read("collective").to_pylist()
    assert (row["backend"], row["framework"]) == ("rccl", "rccl-2.28.3")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("h100_all_reduce_perf.log", "all_reduce"),
        ("8xh200-allgather-2026.txt", "all_gather"),
        ("ReduceScatter.out", "reduce_scatter"),
        ("alltoall_perf_mpi.txt", "all_to_all"),
    ],
)
def test_names_of_files_hold_the_program(name: str, kind: str, tmp_path: Path, store: Store) -> None:
    """Whatever else a file name says, the program in it counts where the output names none."""
    assert _imported(_run(None), tmp_path, store, name)[0][0] == kind


def test_old_columns(tmp_path: Path, store: Store) -> None:
    """Builds that print a rounding error and no root keep their rows, but for errors marked as too large."""
    header = HEADER.replace("#wrong", " error").replace("    root", "")
    rows = "  1048576  262144  float  sum  20.00 52.43 91.75 2e-07  20.00 52.43 91.75 2e-07\n"
    rows += "  2097152  524288  float  sum  40.00 52.43 91.75 4e-01*  40.00 52.43 91.75 4e-01*\n"
    path = tmp_path / "all_reduce_perf.txt"
    path.write_text(f"# nThread 1 nGpus 8 iters: 20\n{RANKS.replace('Group  0 ', '')}{header}{rows}")
    (count,) = import_nccl_tests([path], store)
    assert (count.kept, count.dropped) == (1, {"wrong result": 1})
    # An all-to-all of that time leaves its operator blank.
    row = "  4194304  1048576  float  80.00 52.43 45.88 0e+00  80.00 52.43 45.88 N/A\n"
    blank = tmp_path / "alltoall_perf.txt"
    blank.write_text(path.read_text().replace(rows, row))
    (count,) = import_nccl_tests([blank], store)
    assert (count.kept, count.notes) == (1, ())


def test_figures_beside_the_usual_ones_are_passed_over(tmp_path: Path, store: Store) -> None:
    """Newer builds print mismatched bits, times of single iterations and the time of day behind each placement."""
    header = "#  size count type redop root time algbw busbw #wrong i_min i_max time algbw busbw #wrong i_min i_max "
    row = "  1048576 262144 float sum -1 20.00 52.43 91.75 0 19 21 22.00 47.66 83.41 0 21 23  2026-05-01 10:00:00\n"
    text = _run().partition(HEADER)[0] + f"{header}timestamp\n{row}"
    _imported(text, tmp_path, store, placement="in_place")
    assert store.read("collective")["latency_s"].to_pylist() == pytest.approx([22e-6])


def test_doubts_are_said(tmp_path: Path, store: Store) -> None:
    """A kind whose bus bandwidth another has, an operator it has not, blocking and an aborted run are noted."""
    aborted = _run(sizes=())
    text = aborted + _run("all_gather_perf").replace("# Using", "# Blocking Enabled: wait and barrier\n# Using")
    path = tmp_path / "out.txt"
    path.write_text(text)
    (count,) = import_nccl_tests([path], store)
    for words in ("printed no results", "1.75 times", "operator is 'sum'", "blocking"):
        assert any(words in note for note in count.notes), words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_run(sizes=(10**30,)), "must be at most"),
        (_run().replace("Rank  3", "Rank 33"), "lists 8 of 34 ranks"),
        (_run(hosts=("n0", "n1"), per_host=2, groups=3), "groups of ranks differ"),
        (_run(per_host=1), "1 ranks took part"),
        (_run("all_reduce_bias_perf"), "all_reduce_bias_perf is not one of"),
        (_run(device="NVIDIA Graphics Device"), "unknown device 'NVIDIA Graphics Device'"),
        (_run(None), "does not say which program"),
        (json.dumps(_document(results=[{"size": 10**30}])), r"results\[0\]\.size is 1000"),
        (json.dumps(_document()).replace('"graph": 0', '"graph": -Infinity'), r"config\.graph is -inf"),
        (json.dumps(_document()).replace('"iterations": 20', '"iterations": true'), r"config\.iterations is True"),
        ('{"args": ' + "[" * 9000, "not"),
    ],
)
def test_defects_are_refused_by_place_and_value(text: str, words: str, tmp_path: Path, store: Store) -> None:
    """What no run can have printed ends in one short message with the file, and nothing is stored."""
    with pytest.raises(UserError, match=words) as caught:
        _imported(text, tmp_path, store)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.hint
    assert not store.devices()


def test_a_kind_the_output_contradicts_is_refused(tmp_path: Path, store: Store) -> None:
    """--kind is for outputs that do not name their program."""
    with pytest.raises(UserError, match=r"printed by all_reduce_perf, but --kind is all_gather"):
        _imported(_run(), tmp_path, store, kind="all_gather")
