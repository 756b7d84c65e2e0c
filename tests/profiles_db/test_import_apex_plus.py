"""apex_plus tables: units, swapped names, clocks from file names, rounded and outlying values."""

from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from profiles_db.importers.apex_plus import import_apex_plus
from profiles_db.store import Store, open_store

COLLECTIVE = "gpu,num_nodes,num_gpus_per_node,dtype,size(kb),time(us)\n"


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_gemm_names_are_swapped_and_clock_is_read(tmp_path: Path, store: Store) -> None:
    """Its n is our m; microseconds, microjoules and the clock of the file name arrive in SI and MHz."""
    header = "gpu,dtype,m,k,n,time(us),mem_clk_freq,graph_clk_freq,avg_power(W),avg_energy(uJ)\n"
    text = header + "H100-SXM-80GB,half,4096,8192,16,50,2619,1398,400,20000\n"
    (count,) = import_apex_plus(_file(tmp_path, "gemm_1410.csv", text), store)
    (row,) = store.read("gemm").to_pylist()
    assert (row["m"], row["n"], row["k"], row["dtype"], row["device"]) == (16, 4096, 8192, "fp16", "h100-sxm")
    assert row["latency_s"] == pytest.approx(50e-6)
    assert row["energy_j"] == pytest.approx(0.02)
    assert (row["clock_mhz"], row["sm_clock_mhz"], row["power_w"]) == (1410.0, 1398.0, 400.0)
    assert (count.rows_in, count.kept) == (1, 1)


def test_clock_0_means_unlocked(tmp_path: Path, store: Store) -> None:
    """The file of unlocked measurements has no clock."""
    import_apex_plus(_file(tmp_path, "gemm_0.csv", "gpu,dtype,m,k,n,time(us)\nV100-PCIE-16GB,half,8,8,8,3\n"), store)
    (row,) = store.read("gemm").to_pylist()
    assert (row["clock_mhz"], row["device"]) == (None, "v100-pcie")


def test_collective_sizes_are_kib_of_the_full_array(tmp_path: Path, store: Store) -> None:
    """KiB become bytes, sizes rounded to nothing go, nodes and ranks multiply."""
    rows = "H100-SXM-80GB,1,8,half,0,15\nH100-SXM-80GB,1,8,half,2,16\nH100-SXM-80GB,2,8,float,4,40\n"
    (count,) = import_apex_plus(_file(tmp_path, "alltoall.csv", COLLECTIVE + rows), store)
    assert count.dropped == {"message size rounded to 0 KiB": 1}
    found = {
        (row["kind"], row["ranks"], row["nodes"], row["level"], row["message_bytes"], row["dtype"])
        for row in store.read("collective").to_pylist()
    }
    assert found == {("all_to_all", 8, 1, "nvlink", 2048, "fp16"), ("all_to_all", 16, 2, "network", 4096, "fp32")}


def test_outliers_are_dropped_or_marked(tmp_path: Path, store: Store) -> None:
    """A message that takes over twice a larger one's time goes, or stays marked on request."""
    rows = "H100-SXM-80GB,1,2,float,4,1872\nH100-SXM-80GB,1,2,float,8,32\nH100-SXM-80GB,1,2,float,16,30\n"
    path = _file(tmp_path, "all_gather.csv", COLLECTIVE + rows)
    (count,) = import_apex_plus(path, store)
    assert count.dropped == {"over twice the time of a larger point": 1}
    other = open_store(tmp_path / "other", bundled=None)
    import_apex_plus(path, other, include_unfit=True)
    notes = {row["message_bytes"]: row["note"] for row in other.read("collective").to_pylist()}
    assert "suspect" in notes[4096]
    assert "suspect" not in notes[8192]


def test_attention_is_square_and_causal(tmp_path: Path, store: Store) -> None:
    """Causal tables become prefill rows; those without a mask have no place and are counted."""
    header = "gpu,dtype,num_heads,head_size,batch_size,seq_len,time(us)\n"
    row = "H200-SXM-141GB,half,8,128,4,512,90\n"
    _file(tmp_path, "comp/H200/mha_0.csv", header + row)
    _file(tmp_path, "comp/H200/bimha_0.csv", header + row)
    counts = {Path(count.table).stem: count for count in import_apex_plus(tmp_path / "comp", store)}
    (stored,) = store.read("attention").to_pylist()
    assert [stored[name] for name in ("phase", "num_prefill", "prefill_q", "prefill_kv", "num_heads", "head_dim")] == [
        "prefill",
        4,
        512,
        512,
        8,
        128,
    ]
    assert counts["bimha_0"].dropped == {"attention without a causal mask has no columns in the schema": 1}


def test_zero_times_and_unknown_formats_are_counted(tmp_path: Path, store: Store) -> None:
    """A time below half a microsecond was rounded to zero and says nothing."""
    text = "gpu,dtype,m,k,n,time(us)\nH100-SXM-80GB,half,8,8,8,0\nH100-SXM-80GB,fp3,8,8,8,5\n"
    (count,) = import_apex_plus(_file(tmp_path, "gemm_0.csv", text), store)
    assert count.dropped == {"latency zero or negative": 1, "number format fp3 has no counterpart": 1}


def test_importing_twice_adds_nothing(tmp_path: Path, store: Store) -> None:
    """The second import counts the rows as present."""
    path = _file(tmp_path, "gemm_0.csv", "gpu,dtype,m,k,n,time(us)\nH100-SXM-80GB,half,8,8,8,3\n")
    import_apex_plus(path, store)
    assert import_apex_plus(path, store)[0].dropped == {"already in the store": 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gemm_0.csv", "gpu,dtype,m,k,n\nH100-SXM-80GB,half,1,1,1\n", r"column 'time\(us\)' is missing"),
        ("gemm_0.csv", "gpu,dtype,m,k,n,time(us)\nH100-SXM-80GB,half,1,1,1,fast\n", "invalid value 'fast'"),
        ("gemm_0.csv", "gpu,dtype,m,k,n,time(us)\nABACUS,half,1,1,1,1\n", "unknown device 'ABACUS'"),
        ("broadcast.csv", COLLECTIVE + "H100-SXM-80GB,1,8,half,2,16\n", "file name must be one of"),
        ("other.csv", "gpu,speed\nH100-SXM-80GB,1\n", "not a table of apex_plus"),
        ("gemm_0.csv", "m,k\n1,2\n", "column 'gpu' is missing"),
        ("gemm_0.csv", "", "cannot be read as CSV"),
    ],
)
def test_other_files_are_refused_by_name(name: str, text: str, words: str, tmp_path: Path, store: Store) -> None:
    """A file of another form is named with what is wrong."""
    with pytest.raises(UserError, match=words):
        import_apex_plus(_file(tmp_path, name, text), store)
