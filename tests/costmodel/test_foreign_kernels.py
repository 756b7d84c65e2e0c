"""Rows of kernels that the engine does not run: no price where its own was measured, a stand-in elsewhere, ratios."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.families.kernels import EngineKernels, kernel_family
from costmodel.fit_file.artefact import load_artefact, save_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.fitting.prior import Prior
from costmodel.fitting.report import fit_text
from costmodel.ops.op_types import Attention, Gemm, Op
from profiles_db.store import Store, open_store
from simulator.engine_profiles.kernels_of_engine import kernels_of_engine

from .conftest import DEVICE, attention_rows, common, gemm_rows, true_gemm_s

ENGINE = EngineKernels(engine="vllm-0.24.0", families={"attention|gqa": ("fa3",), "gemm|bf16": ("cublas",)})
SLOWER = 1.8
TABLE = {"origin": "imported:aiconfigurator", "framework": "vllm-0.24.0", "cache": "hot"}
PREFILL = {"num_heads": 32, "num_kv_heads": 8, "head_dim": 128, "v_head_dim": 128}

Rows = list[dict[str, Any]]


def with_other_heads(rows: Rows) -> Rows:
    """Rows of head counts that no table has."""
    return [row | {"num_heads": 2 * row["num_heads"]} for row in rows]


def foreign(rows: Iterable[dict[str, Any]], count: int) -> Rows:
    """Return ``count`` rows of FlashAttention 2, slower than the tables' kernel by a constant factor."""
    own = {"backend": "torch.flash_attention", "origin": "measured", "framework": None, "cache": "cold"}
    rows = list(rows)
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    return [rows[i] | own | {"latency_s": SLOWER * rows[i]["latency_s"]} for i in chosen]


def tables(cluster: ClusterSpec) -> Rows:
    """Attention rows as an import of the engine's tables leaves them."""
    return [row | TABLE for row in attention_rows(cluster)]


def candidates(cluster: ClusterSpec) -> Rows:
    """Rows at the tables' points, and at shapes that they do not have."""
    rows = attention_rows(cluster)
    other = with_other_heads(rows)
    return rows + other + with_other_heads(other)


def store_of(folder: Path, **families: Rows) -> Store:
    store = open_store(folder, bundled=None)
    for family, rows in families.items():
        for run in {row["origin"] for row in rows}:
            store.append(family, [row for row in rows if row["origin"] == run], run.replace(":", "-"))
    return store


def questions() -> list[Op]:
    """Return calls at, between and beyond the tables' points, of shapes they have and do not have."""
    lengths = np.array([16, 100, 512, 3000, 8192, 20000])
    return [
        Attention(**PREFILL, num_prefill=2, prefill_q=lengths, prefill_kv=lengths),
        Attention(**PREFILL, num_decode=16, decode_kv=lengths, decode_kv_max=lengths),
        Attention(**PREFILL, num_prefill=1, prefill_q=lengths, prefill_kv=lengths + 4096),
        Attention(**PREFILL | {"num_heads": 64}, num_decode=3, decode_kv=lengths, decode_kv_max=lengths),
    ]


def prices(artefact: Artefact, cluster: ClusterSpec) -> list[list[float]]:
    costs = FittedCosts(artefact, cluster)
    return [costs.predict(op).latency_s.tolist() for op in questions()]


@pytest.fixture(scope="module")
def of_tables(tmp_path_factory: pytest.TempPathFactory, cluster: ClusterSpec) -> Artefact:
    """Fit the engine's tables alone."""
    store = store_of(tmp_path_factory.mktemp("tables"), attention=tables(cluster))
    return fit_device(store, DEVICE, cluster, framework="vllm-0.24.0", engine=ENGINE)


@pytest.mark.parametrize("count", [1, 6, 12, 50, 200])
@pytest.mark.parametrize("wanted", ["vllm-0.24.0", None])
def test_rows_of_another_kernel_do_not_move_a_price_of_the_tables(
    count: int, wanted: str | None, tmp_path: Path, cluster: ClusterSpec, of_tables: Artefact
) -> None:
    """However many there are, beside the tables in one database, every price is what it is without them."""
    rows = foreign(candidates(cluster), count)
    store = store_of(tmp_path, attention=tables(cluster) + rows)
    artefact = fit_device(store, DEVICE, cluster, framework=wanted, engine=ENGINE if wanted else None)
    assert prices(artefact, cluster) == prices(of_tables, cluster)
    reason = "of a kernel that the engine does not run: they tell ratios, not prices"
    (report,) = [report for report in artefact.reports if report.family == "attention"]
    assert report.dropped[reason] == count
    assert set(report.priced_by.values()) == set(report.engine_runs.values()) == {"fa3"}


@pytest.mark.parametrize("count", [1, 12, 200])
def test_rows_of_another_kernel_do_not_move_a_price_of_an_earlier_fit(
    count: int, tmp_path: Path, cluster: ClusterSpec, of_tables: Artefact
) -> None:
    """A database of one's own beside the fit of the engine's tables: products are one's own, attention is the fit's."""
    save_artefact(of_tables, tmp_path / "prior.parquet")
    prior = Prior(load_artefact(tmp_path / "prior.parquet"), cluster)
    rows = foreign(candidates(cluster), count)
    store = store_of(tmp_path / "db", gemm=gemm_rows(cluster), attention=rows)
    artefact = fit_device(store, DEVICE, cluster, prior=prior, engine=ENGINE)
    assert prices(artefact, cluster) == prices(of_tables, cluster)
    assert "its rows are of kernels that the engine does not run; its prices are an earlier fit's" in fit_text(artefact)
    assert FittedCosts(artefact, cluster).predict(Gemm(m=16, n=1024, k=1024)).latency_s == true_gemm_s(
        cluster, 16, 1024, 1024
    )


def test_nothing_but_rows_of_another_kernel_stands_in_and_says_so(tmp_path: Path, cluster: ClusterSpec) -> None:
    """Without tables and earlier fit they are the prices; report, origin and file name both kernels."""
    rows = foreign(attention_rows(cluster), 200)
    artefact = fit_device(store_of(tmp_path / "db", attention=rows), DEVICE, cluster, engine=ENGINE)
    assert "stand-in attention prefill|gqa|bf16|bf16: priced by fa2, vllm-0.24.0 runs fa3" in fit_text(artefact)
    save_artefact(artefact, tmp_path / "fit.parquet")
    costs = FittedCosts(load_artefact(tmp_path / "fit.parquet"), cluster)
    assert "attention decode|gqa|bf16|bf16 by fa2 in place of fa3" in costs.origin
    op = Attention(**PREFILL, num_prefill=1, prefill_q=512, prefill_kv=512)
    assert costs.predict(op).latency_s in [row["latency_s"] for row in rows]


def test_nothing_but_rows_of_another_kernel_beside_the_engines_is_one_error(
    tmp_path: Path, cluster: ClusterSpec, of_tables: Artefact
) -> None:
    """Where an earlier fit holds the engine's kernel there is nothing to fit; the hint says how to fit them anyway."""
    store = store_of(tmp_path, attention=foreign(attention_rows(cluster), 12))
    with pytest.raises(UserError, match=r"12 rows are of fa2, vllm-0\.24\.0 runs fa3") as caught:
        fit_device(store, DEVICE, cluster, prior=Prior(of_tables, cluster), engine=ENGINE)
    assert "--prior none" in caught.value.hint


def test_a_fit_that_took_the_tables_from_another_guards_them_too(
    tmp_path: Path, cluster: ClusterSpec, of_tables: Artefact
) -> None:
    """Its rows went through no engine, but it knows whose kernels it holds; its stand-ins are not guarded."""
    own = store_of(tmp_path / "own", gemm=gemm_rows(cluster))
    second = fit_device(own, DEVICE, cluster, prior=Prior(of_tables, cluster), engine=ENGINE)
    both = store_of(tmp_path / "both", gemm=gemm_rows(cluster), attention=foreign(candidates(cluster), 50))
    third = fit_device(both, DEVICE, cluster, prior=Prior(second, cluster), engine=ENGINE)
    assert prices(third, cluster) == prices(of_tables, cluster)
    alone = store_of(tmp_path / "alone", attention=foreign(attention_rows(cluster), 200))
    stand_in = fit_device(alone, DEVICE, cluster, engine=ENGINE)
    again = store_of(tmp_path / "again", attention=foreign(candidates(cluster), 200))
    artefact = fit_device(again, DEVICE, cluster, prior=Prior(stand_in, cluster), engine=ENGINE)
    assert "attention" not in artefact.provenance.from_prior


def test_rows_of_the_engines_kernel_take_the_place_of_the_same_points_alone(
    tmp_path: Path, cluster: ClusterSpec
) -> None:
    """Products of cuBLAS at three sizes: those prices are measured here, the others of the label are the tables'."""
    table = [row | TABLE for row in gemm_rows(cluster)]
    own = [row | {"latency_s": 1.1 * row["latency_s"]} for row in gemm_rows(cluster, m=(16, 64, 512))]
    artefact = fit_device(store_of(tmp_path, gemm=table + own), DEVICE, cluster, engine=ENGINE)
    costs = FittedCosts(artefact, cluster)
    for m, factor in ((16, 1.1), (32, 1.0), (64, 1.1), (1024, 1.0)):
        assert costs.predict(Gemm(m=m, n=1024, k=1024)).latency_s == factor * true_gemm_s(cluster, m, 1024, 1024)
    (report,) = [report for report in artefact.reports if report.family == "gemm"]
    assert report.dropped == {"another framework, version or origin was preferred": len(own)}


def test_rows_of_another_kernel_tell_ratios_within_it(
    tmp_path: Path, cluster: ClusterSpec, of_tables: Artefact
) -> None:
    """Chunks of FlashAttention 2 take 1.3 times what its whole prompts say: the tables' kernel then does so too."""
    plain = foreign(attention_rows(cluster), 200)
    alone = fit_device(store_of(tmp_path / "alone", attention=plain), DEVICE, cluster, engine=ENGINE)
    own, engines = FittedCosts(alone, cluster), FittedCosts(of_tables, cluster)
    chunks = []
    for q in (64, 128, 256, 512, 1024, 2048, 4096):
        op = Attention(**PREFILL, num_prefill=1, prefill_q=q, prefill_kv=q + 2048)
        shape = PREFILL | {"window": 0, "num_prefill": 1, "prefill_q": q, "prefill_kv": q + 2048}
        shape |= {
            "num_decode": 0,
            "decode_q": 1,
            "decode_kv": 0,
            "decode_kv_max": 0,
            "variant": "gqa",
            "kv_dtype": "bf16",
        }
        latency_s = 1.3 * float(own.predict(op).latency_s)
        chunks.append(common(latency_s, backend="torch.flash_attention", phase="prefill") | shape)
    store = store_of(tmp_path / "both", attention=tables(cluster) + plain + chunks)
    costs = FittedCosts(fit_device(store, DEVICE, cluster, engine=ENGINE), cluster)
    op = Attention(**PREFILL, num_prefill=1, prefill_q=700, prefill_kv=2748)
    assert costs.predict(op).latency_s == pytest.approx(1.3 * engines.predict(op).latency_s)


@pytest.mark.parametrize(
    ("backend", "family"),
    [
        ("torch.flash_attention", "fa2"),
        ("vllm.flash_attn_fa3", "fa3"),
        ("torch.cudnn_attention", "cudnn"),
        ("torch.cublas", "cublas"),
        ("vllm.cutlass_scaled_mm", "cutlass"),
        ("torch.onednn", "onednn"),
        ("vidur.flashinfer", "flashinfer"),
        ("nccl", "nccl"),
        ("rccl", "rccl"),
        ("trtllm.custom_all_reduce", "custom_all_reduce"),
        ("triton", "triton"),
        ("vllm.fp8moe_triton_tritonexperts", "vllm.triton"),
        ("vllm.fused_experts", "vllm.fused_experts"),
    ],
)
def test_a_kernels_family_follows_from_its_name(backend: str, family: str) -> None:
    """A library's kernel is of that library whoever calls it; a kernel of nobody's library is a family of its own."""
    assert kernel_family(backend) == family


def test_profiles_say_which_kernels_their_engine_runs(cluster: ClusterSpec) -> None:
    """By version the nearest older profile's, without one the newest's; by device; nothing of an unknown engine."""
    for framework in ("vllm-0.24.0", "vllm"):
        kernels = kernels_of_engine(framework, cluster.device)
        assert kernels.of("attention", ("gqa", "bf16", "fp8")) == ("fa3",)
        assert kernels.of("gemm", ("bf16",)) == ("cublas",)
        assert kernels.of("elementwise", ("rmsnorm",)) == ()
    assert kernels_of_engine("sglang-0.5.14", cluster.device).of("moe", ("w4a16",)) == ("marlin",)
    assert kernels_of_engine("", cluster.device).families == {}
    assert kernels_of_engine("other-1.0", cluster.device).families == {}
