"""The shape manifest holds what a search asks for: no shape missing, none twice, each one found again."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.load import load_cluster
from costmodel.families.all import OP_FAMILIES, manifest_rows
from costmodel.families.rows import iter_row_ops
from costmodel.ops.op_types import Attention, Collective, Elementwise, Gemm, Moe, Op
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.manifest import ShapeManifest
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.plan_space import Axes, enumerate_plans
from simulator.feasible.server_setup import Overrides
from simulator.manifest.shapes import Shapes, collect_shapes
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.workload.parse import parse_workload

_SMALL = Overrides(max_num_seqs=32, max_num_batched_tokens=512, max_model_len=2048)
_TWO_NODES = "h100-sxm-2x8"


def _collected(
    model: str,
    cluster: str,
    *plans: str,
    axes: Axes | None = None,
    overrides: Overrides = _SMALL,
    trace: str | None = None,
) -> Shapes:
    spec, loaded = load_cluster(cluster), load_model(model)
    chosen = [parse_plan(text) for text in plans] or enumerate_plans(loaded, spec, axes)
    workload = parse_workload(trace) if trace else None
    return collect_shapes([(loaded, chosen)], spec, load_profile("vllm-0.33"), overrides=overrides, workload=workload)


def _table(rows: Sequence[dict[str, object]]) -> dict[str, np.ndarray]:
    columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    return {**columns, "latency_s": np.ones(len(rows))}


_TOKENS = np.array([1, 8, 100, 512], dtype=np.int64)


@pytest.mark.parametrize(
    "op",
    [
        Gemm(m=_TOKENS, n=1280, k=8192, dtype="fp8"),
        Attention(
            num_heads=8,
            num_kv_heads=1,
            head_dim=128,
            v_head_dim=128,
            num_decode=_TOKENS,
            decode_kv=_TOKENS * 2,
            decode_kv_max=_TOKENS * 2,
        ),
        Attention(
            num_heads=8,
            num_kv_heads=1,
            head_dim=576,
            v_head_dim=512,
            variant="mla",
            window=128,
            num_prefill=1,
            prefill_q=_TOKENS,
            prefill_kv=_TOKENS + 64,
        ),
        Moe(num_tokens=_TOKENS, hidden=2048, inter=768, num_experts=128, topk=8, ep=4, routing="power_law_1.01"),
        Elementwise(op="rope", rows=_TOKENS, width=1280, bytes_per_row=5120),
        Collective(kind="all_reduce", message_bytes=_TOKENS * 4096, ranks=8),
        Collective(kind="all_reduce", message_bytes=_TOKENS * 4096, ranks=16),
        Collective(kind="send_recv", message_bytes=_TOKENS * 4096, ranks=2, group_stride=8),
    ],
    ids=lambda op: f"{type(op).__name__}-{getattr(op, 'kind', getattr(op, 'phase', ''))}",
)
def test_rows_stand_for_their_op(op: Op) -> None:
    """A cost model asked about the rows, as the fit reads them, answers with the prices of the op they came from."""
    cluster = load_cluster(_TWO_NODES)
    costs = AnalyticCosts(cluster)
    columns = _table(list(manifest_rows(op, cluster)))
    (back,) = iter_row_ops(OP_FAMILIES[op.family], columns, cluster)
    np.testing.assert_allclose(costs.predict(back[0]).latency_s, costs.predict(op).latency_s, rtol=1e-9)


def test_strided_group_is_split_by_level() -> None:
    """A transfer that jumps over ranks and crosses nodes is one row per level; nodes are counted by rank."""
    cluster = load_cluster(_TWO_NODES)
    across = Collective(kind="all_reduce", message_bytes=1 << 20, ranks=8, group_stride=2)
    rows = list(manifest_rows(across, cluster))
    assert [(row["ranks"], row["nodes"], row["message_bytes"]) for row in rows] == [(4, 1, 1 << 20), (2, 2, 1 << 18)]
    assert rows[0]["level"] != rows[1]["level"]
    assert not list(manifest_rows(Collective(kind="all_reduce", message_bytes=8, ranks=1), cluster))


def _manifest_values(manifest: ShapeManifest, family: str, *names: str) -> set[tuple[object, ...]]:
    table: pa.Table = manifest.tables[family]
    return set(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_manifest_holds_the_shards_of_the_plan() -> None:
    """Under tp 4, llama-3.1-8b's matrices are those a rank holds, at every captured batch size."""
    manifest = _collected("llama-3.1-8b", "h100-sxm-4", "tp4").manifest()
    assert _manifest_values(manifest, "gemm", "n", "k") == {
        (1536, 4096),
        (4096, 1024),
        (7168, 4096),
        (4096, 3584),
        (32064, 4096),
    }
    captured = {size for size in load_profile("vllm-0.33").graphs.capture_sizes(32) if size <= 512}
    assert {(size,) for size in captured} <= _manifest_values(manifest, "gemm", "m")
    assert _manifest_values(manifest, "collective", "kind", "ranks") == {("all_reduce", 4), ("all_gather", 4)}
    assert _manifest_values(manifest, "attention", "phase") == {("decode",), ("prefill",)}
    assert "moe" not in manifest.tables


def test_formats_are_named_in_rows() -> None:
    """FP8 weights give FP8 GEMMs with row scales, and roundings named by the format they round to."""
    manifest = _collected("llama-3.1-8b", "h100-sxm-4", axes=Axes(weight_dtypes=("fp8",))).manifest()
    formats = _manifest_values(manifest, "gemm", "dtype", "scaling")
    assert ("fp8", "row") in formats
    assert formats <= {("fp8", "row"), ("bf16", "none")}
    named = _manifest_values(manifest, "elementwise", "op", "dtype")
    assert {dtype for op, dtype in named if str(op).endswith("quantise")} == {"fp8"}
    assert {dtype for op, dtype in named if not str(op).endswith("quantise")} == {"bf16"}


def test_plans_share_shapes() -> None:
    """A plan adds nothing that another with the same shards has brought, and clocks add nothing at all."""
    alone = _collected("llama-3.1-8b", "h100-sxm-8", "tp2")
    both = _collected("llama-3.1-8b", "h100-sxm-8", "tp2", "dp2-tp2", "tp2-f1200")
    assert both.plans == 2
    assert both.counts() == alone.counts()
    assert both.manifest().num_shapes == sum(sum(count.values()) for count in both.counts().values())


def test_scans_are_listed_by_phase_and_experts_without_a_gate_left_out() -> None:
    """Prompts by the tokens of a step, decode steps by their sequences; no row stands for experts nobody measures."""
    found = _collected("nemotron-3-nano-30b-a3b", "h100-sxm-8", "tp2")
    rows = list(found.rows["scan"].values())
    assert {row["phase"] for row in rows} == {"prefill", "decode"}
    assert all((row["num_prefill"], row["num_decode"]).count(0) == 1 for row in rows)
    assert {(row["variant"], row["num_heads"], row["num_groups"], row["chunk"]) for row in rows} == {
        ("mamba2", 32, 4, 128)
    }
    assert found.ungated > 0
    assert "moe" not in found.counts()
    assert "scan" in found.manifest().tables


def test_decode_stops_after_the_longest_sequence() -> None:
    """Per batch size at most one mean length lies beyond the longest sequence; the others are counted."""
    found = _collected("llama-3.1-8b", "h100-sxm-1", "tp1")
    beyond: dict[int, set[int]] = {}
    for row in found.rows["attention"].values():
        if row["num_decode"] and row["decode_kv"] == row["decode_kv_max"] and int(str(row["decode_kv"])) > 2048:
            beyond.setdefault(int(str(row["num_decode"])), set()).add(int(str(row["decode_kv"])))
    assert found.unreachable > 0
    assert all(len(lengths) == 1 for batch, lengths in beyond.items() if batch > 1)


def test_experts_and_latent_attention() -> None:
    """DeepSeek's plans ask for routed experts, latent attention and the transfers between their layouts."""
    manifest = _collected("deepseek-v3", "h200-sxm-8", "attn.dp8-moe.ep8").manifest()
    assert _manifest_values(manifest, "moe", "num_experts", "ep") == {(256, 8)}
    assert ("mla",) in _manifest_values(manifest, "attention", "variant")
    assert manifest.tables["collective"].num_rows > 0


def test_trace_sizes_the_steps() -> None:
    """A trace of short requests needs no attention over long ones."""
    free = replace(_SMALL, max_model_len=None)
    short = _collected("llama-3.1-8b", "h100-sxm-1", "tp1", overrides=free, trace="synthetic:isl=100,osl=20,rate=1,n=5")
    long = _collected("llama-3.1-8b", "h100-sxm-1", "tp1", overrides=free)
    assert short.manifest().num_shapes < long.manifest().num_shapes


def test_refused_plans_are_kept_with_their_reason() -> None:
    """A plan that cannot start contributes its reason and no shape."""
    found = _collected("llama-3.1-405b", "h100-sxm-8", "tp8", "dp8")
    assert found.plans == 0
    assert found.rows == {}
    assert [str(refusal.plan) for refusal in found.refused] == ["tp8", "dp8"]
    assert json.dumps(found.counts()) == "{}"


def test_shapes_do_not_depend_on_the_costs() -> None:
    """Two clusters of the same size and memory but other speed ask for the same compute shapes."""
    fast, slow = (_spec(bandwidth) for bandwidth in (3e12, 1e12))
    counts = []
    for spec in (fast, slow):
        found = collect_shapes(
            [(load_model("llama-3.1-8b"), [parse_plan("tp2")])], spec, load_profile("vllm-0.33"), overrides=_SMALL
        )
        counts.append(found.manifest().tables)
    assert {name: table.to_pylist() for name, table in counts[0].items()} == {
        name: table.to_pylist() for name, table in counts[1].items()
    }


def _spec(memory_bytes_per_s: float) -> ClusterSpec:
    cluster = load_cluster("h100-sxm-2")
    device = cluster.device.model_copy(update={"memory_bytes_per_s": memory_bytes_per_s})
    return cluster.model_copy(update={"device": device})


def test_shares_of_each_step_add_up_to_one() -> None:
    """All rows together are a whole prefill step and a whole decode step; a step of one prompt decodes nothing."""
    manifest = _collected("qwen3-30b-a3b", "h100-sxm-8", "tp4", "tp2").manifest()
    rows = [(family, row) for family, table in manifest.shares.items() for row in table.to_pylist()]
    for share in ("prefill_frac", "decode_frac"):
        assert sum(row[share] for _, row in rows) == pytest.approx(1.0)
    decode = [row for family, row in rows if family == "attention" and row["phase"] == "decode"]
    assert decode
    assert all(row["prefill_frac"] == 0.0 for row in decode)
