"""Vidur's CSVs: projection sizes per rank, kernel milliseconds, levels of links, copied files."""

from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from costmodel.ops.small_ops import small_op
from profiles_db.importers.vidur import import_vidur
from profiles_db.store import Store

MLP = (
    "time_stats.attn_pre_proj.median,time_stats.mlp_up_proj.median,time_stats.mlp_down_proj.median,"
    "time_stats.attn_post_proj.median,time_stats.mlp_act.median,time_stats.add.median,time_stats.sampling.median,"
    "n_head,n_kv_head,n_embd,n_expanded_embd,vocab_size,use_gated_mlp,num_tokens,num_tensor_parallel_workers\n"
    "2.8,16.0,8.0,2.4,0.5,0.0,1.0,64,8,8192,28672,32768,True,4096,4\n"
)
ATTENTION = (
    "time_stats.attn_prefill.median,time_stats.attn_decode.median,n_embd,n_q_head,n_kv_head,block_size,"
    "num_tensor_parallel_workers,max_model_len,batch_size,prefill_chunk_size,kv_cache_size,is_prefill,attention_backend\n"
    "0.5,,8192,64,8,16,4,4096,1,256,1024,True,AttentionBackend.FLASHINFER\n"
    ",0.1,8192,64,8,16,4,4096,32,0,1023,False,AttentionBackend.FLASHINFER\n"
)
NETWORK = (
    ",time_stats.send_recv.min,time_stats.send_recv.median,rank,num_workers,size,collective,devices_per_node,"
    "max_devices_per_node\n0,0.016,0.024,0,2,2048,send_recv,1,8\n1,0.02,0.03,0,2,4096,send_recv,2,8\n"
)


def _tree(root: Path, **files: str) -> Path:
    for place, text in files.items():
        path = root / place.replace("__", "/")
        path = path.with_name(path.name + ".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_projections_are_sharded_and_timed_in_ms(tmp_path: Path, store: Store) -> None:
    """Sizes per rank follow the layer's dimensions; a tensor-parallel degree divides the right side."""
    import_vidur(_tree(tmp_path / "in", compute__a100__llama__mlp=MLP), store)
    found = {(row["m"], row["n"], row["k"]): row["latency_s"] for row in store.read("gemm").to_pylist()}
    assert found == {
        (4096, (64 + 16) * 128 // 4, 8192): pytest.approx(2.8e-3),
        (4096, 8192, 8192 // 4): pytest.approx(2.4e-3),
        (4096, 2 * 28672 // 4, 8192): pytest.approx(16e-3),
        (4096, 8192, 28672 // 4): pytest.approx(8e-3),
    }
    assert set(store.read("gemm")["device"].to_pylist()) == {"a100-sxm-80gb"}


def test_small_ops_count_their_bytes(tmp_path: Path, store: Store) -> None:
    """A gated activation reads two halves and writes one, in 16 bits."""
    import_vidur(_tree(tmp_path / "in", compute__a100__llama__mlp=MLP), store)
    (row,) = store.read("elementwise").to_pylist()
    assert (row["op"], row["rows"], row["width"]) == ("silu_mul", 4096, 28672 // 4)
    assert row["io_bytes"] == 4096 * (28672 // 4) * 3 * 2
    assert row["io_bytes"] == small_op("silu_mul", rows=4096, width=28672 // 4, dtype="fp16").io_bytes()


def test_zero_medians_and_unknown_ops_are_counted(tmp_path: Path, store: Store) -> None:
    """A zero is a time below the profiler's resolution; an op without a counterpart is listed."""
    counts = import_vidur(_tree(tmp_path / "in", compute__a100__llama__mlp=MLP), store)
    dropped = {count.table.rsplit(":", 1)[1]: count.dropped for count in counts if count.dropped}
    assert dropped == {"add": {"latency zero or negative": 1}, "sampling": {"op sampling has no counterpart": 1}}


def test_attention_sees_history_and_itself(tmp_path: Path, store: Store) -> None:
    """A chunk sees its history and itself, a decoded token likewise; heads are those of one rank."""
    import_vidur(_tree(tmp_path / "in", compute__h100__llama__attention=ATTENTION), store)
    rows = {row["phase"]: row for row in store.read("attention").to_pylist()}
    assert [rows["prefill"][name] for name in ("num_prefill", "prefill_q", "prefill_kv")] == [1, 256, 1280]
    assert [rows["decode"][name] for name in ("num_decode", "decode_kv", "num_heads", "num_kv_heads")] == [
        32,
        1024,
        16,
        2,
    ]
    assert rows["decode"]["latency_s"] == pytest.approx(1e-4)
    assert (rows["decode"]["backend"], rows["decode"]["device"]) == ("vidur.flashinfer", "h100-sxm")


def test_levels_follow_nodes_and_pairs(tmp_path: Path, store: Store) -> None:
    """Ranks on two nodes use the network, a pair its NVLink."""
    import_vidur(_tree(tmp_path / "in", network__a100_pairwise_nvlink__send_recv=NETWORK), store)
    found = {
        row["message_bytes"]: (row["nodes"], row["level"], row["ranks"]) for row in store.read("collective").to_pylist()
    }
    assert found == {2048: (2, "network", 2), 4096: (1, "nvlink", 2)}


def test_a_copied_network_table_is_dropped(tmp_path: Path, store: Store) -> None:
    """The H100 table that is the A100 one byte for byte lends the H100 nothing."""
    places = ("network__a100_pairwise_nvlink__send_recv", "network__h100_pairwise_nvlink__send_recv")
    counts = import_vidur(_tree(tmp_path / "in", **dict.fromkeys(places, NETWORK)), store)
    dropped = {Path(count.table).parent.name: count.dropped for count in counts}
    assert dropped["h100_pairwise_nvlink"] == {"copy of a100_pairwise_nvlink/send_recv.csv": 2}
    assert store.read("collective", device="h100-sxm").num_rows == 0


def test_other_tables_are_listed(tmp_path: Path, store: Store) -> None:
    """A CSV that holds no operator times is counted, not passed over."""
    (count,) = import_vidur(_tree(tmp_path / "in", a100__cpu_overheads="model,schedule\nx,1\n"), store)
    assert count.dropped == {"not a table of operator times": 1}


@pytest.mark.parametrize(
    ("place", "text", "words"),
    [
        ("tpu__x__mlp", MLP, "no folder on the way names a device"),
        ("a100__x__mlp", "num_tokens\n1\n", "column 'n_head' is missing"),
        ("a100__x__attention", "n_embd\n1\n", "column 'n_q_head' is missing"),
        ("a100_dgx__all_reduce", NETWORK, "column 'time_stats.all_reduce.median' is missing"),
    ],
)
def test_files_of_another_form_are_named(place: str, text: str, words: str, tmp_path: Path, store: Store) -> None:
    """A missing column or device is said with the file."""
    with pytest.raises(UserError, match=words):
        import_vidur(_tree(tmp_path / "in", **{place: text}), store)


def test_a_folder_without_tables_is_named(tmp_path: Path, store: Store) -> None:
    """An empty folder is a mistake, not an import of nothing."""
    with pytest.raises(UserError, match="no CSV files"):
        import_vidur(tmp_path, store)
