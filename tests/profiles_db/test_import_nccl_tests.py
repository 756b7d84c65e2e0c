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
        (json.dumps(_document(args=["broadcast_perf"])), "broadcast_perf is not one of"),
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
