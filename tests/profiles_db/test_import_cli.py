"""``apex import`` as a user types it: each tool's files in, counts out."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from profiles_db.store import open_store
from simulator.cli import main

Apex = Callable[..., tuple[int, str, str]]


@pytest.fixture
def apex(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Apex:
    """Run ``apex import`` into the test's database; gives exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["import", *(str(argument) for argument in arguments), "--db", str(tmp_path / "db"), "--json"])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, captured.out, captured.err

    return run


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Give a folder of aiconfigurator tables: one good GEMM row and one eager one."""
    row = {"framework": "VLLM", "version": "0.24.0", "device": "NVIDIA H100 80GB HBM3", "op_name": "gemm"}
    row |= {"kernel_source": "torch.nn.functional.linear", "gemm_dtype": "bfloat16", "m": 1, "n": 64, "k": 64}
    path = tmp_path / "data" / "h100_sxm" / "gemm" / "vllm" / "0.24.0" / "gemm_perf.parquet"
    path.parent.mkdir(parents=True)
    rows = [{**row, "latency": 0.01}, {**row, "gemm_dtype": "fp8_block", "latency": 0.1}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return tmp_path / "data"


def test_aiconfigurator(apex: Apex, tables: Path, tmp_path: Path) -> None:
    """Rows arrive in the database; what was dropped is said on stderr with its count."""
    code, out, err = apex("aiconfigurator", "--from", tables, "--system", "h100_sxm")
    (count,) = json.loads(out)
    assert (code, count["kept"], count["rows_in"]) == (0, 1, 2)
    assert "dropped 1 rows: fp8_block timed eagerly" in err
    assert open_store(tmp_path / "db", bundled=None).read("gemm").num_rows == 1


def test_aiconfigurator_lists_without_importing(apex: Apex, tables: Path, tmp_path: Path) -> None:
    """``--list`` shows what there is and writes nothing."""
    code, out, _ = apex("aiconfigurator", "--from", tables, "--system", "h100_sxm", "--list")
    assert code == 0
    assert json.loads(out) == [{"system": "h100_sxm", "framework": "vllm", "version": "0.24.0", "table": "gemm"}]
    assert not (tmp_path / "db").exists()


def test_unknown_systems_of_a_wheel_are_said(apex: Apex, tables: Path) -> None:
    """``--system all`` names what it leaves out."""
    (tables / "h100_sxm").rename(tables / "x100_sxm")
    for system in ("h100_sxm", "l40s"):
        path = tables / system / "gemm" / "vllm" / "0.24.0"
        path.mkdir(parents=True)
    _, _, err = apex("aiconfigurator", "--from", tables, "--system", "all", "--list")
    assert "system x100_sxm has no name here" in err


def test_systems_without_the_framework_are_said(apex: Apex, tables: Path) -> None:
    """``--system all`` goes on where a system has nothing of the framework, and says where."""
    code, out, err = apex("aiconfigurator", "--from", tables, "--system", "all")
    assert (code, len(json.loads(out))) == (0, 1)
    assert "system l40s has no tables of vllm" in err


def test_vidur(apex: Apex, tmp_path: Path) -> None:
    """A network table is imported by its folder's name."""
    path = tmp_path / "network" / "a100_dgx" / "all_reduce.csv"
    path.parent.mkdir(parents=True)
    path.write_text(
        "time_stats.all_reduce.median,num_workers,size,collective,devices_per_node\n0.02,4,4096,all_reduce,4\n"
    )
    code, out, _ = apex("vidur", tmp_path / "network")
    assert (code, json.loads(out)[0]["kept"]) == (0, 1)
    (row,) = open_store(tmp_path / "db", bundled=None).read("collective").to_pylist()
    assert (row["kind"], row["ranks"], row["level"], row["latency_s"]) == ("all_reduce", 4, "nvlink", 0.02 * 1e-3)


def test_nccl_tests(apex: Apex, tmp_path: Path) -> None:
    """Device and collective may be named where the output does not."""
    text = "#  Rank  0 Group  0 Pid 1 on n0 device  0 [0000:00:00] Mystery\n"
    text += "#  Rank  1 Group  0 Pid 2 on n0 device  1 [0000:01:00] Mystery\n"
    text += "#  size count type redop root time algbw busbw #wrong time algbw busbw #wrong\n"
    text += "   1048576 262144 float sum -1 20.00 52.43 52.43 0 21.00 49.93 49.93 0\n"
    path = tmp_path / "out.txt"
    path.write_text(text)
    code, _, err = apex("nccl-tests", path, "--kind", "all_reduce")
    assert code == 2
    assert "unknown device 'Mystery'" in err
    assert "--device" in err
    code, out, _ = apex("nccl-tests", path, "--kind", "all_reduce", "--device", "h100-sxm", "--in-place")
    assert (code, json.loads(out)[0]["kept"]) == (0, 1)


def test_vllm_bench_serve(apex: Apex, tmp_path: Path) -> None:
    """The summary goes to stdout, the requests to their file, and the store stays as it was."""
    result = {"duration": 1.0, "completed": 1, "total_input_tokens": 4, "total_output_tokens": 2, "mean_ttft_ms": 100.0}
    result |= {"input_lens": [4], "output_lens": [2], "ttfts": [0.1], "itls": [[0.02]], "errors": [""]}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    code, out, err = apex("vllm-bench", path, "--requests", tmp_path / "requests.parquet")
    (summary,) = json.loads(out)
    assert (code, summary["ttft_s.mean"], summary["completed"]) == (0, 0.1, 1)
    assert "1 requests" in err
    assert pq.read_table(tmp_path / "requests.parquet")["tpot_s"].to_pylist() == pytest.approx([0.02])
    assert not (tmp_path / "db").exists()


def test_vllm_bench_of_another_layout(apex: Apex, tmp_path: Path) -> None:
    """A file that is neither kind lists what is missing and where the layout is."""
    path = tmp_path / "result.json"
    path.write_text('{"results": []}')
    code, out, err = apex("vllm-bench", path)
    assert (code, out) == (2, "")
    assert "model: Field required" in err
    assert "0013-vllm-bench-layouts" in err
