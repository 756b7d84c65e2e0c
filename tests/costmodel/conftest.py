"""A small measured database whose true times are known, and the model fitted to it."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import bundled_fit
from costmodel.fit_file.artefact import load_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitting.fit_device import fit_device
from costmodel.ops.op_types import Attention, Collective, Elementwise, Gemm, Moe
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.store import Store, open_store

DEVICE = "h100-sxm"
M = (1, 2, 4, 8, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 1024)
NK = tuple(product((1024, 2048, 4096), (1024, 4096)))


def common(latency_s: float, **extra: Any) -> dict[str, Any]:
    """Return the columns every family shares."""
    row = {
        "device": DEVICE,
        "backend": "torch.cublas",
        "dtype": "bf16",
        "latency_s": latency_s,
        "launch": "graph",
        "cache": "cold",
        "status": "ok",
        "origin": "measured",
    }
    return row | extra


def true_gemm_s(cluster: ClusterSpec, m: int, n: int, k: int) -> float:
    """Time of a GEMM on the imagined machine: 1.3 times the analytic one, ragged sizes a tenth slower."""
    ragged = m > 16 and m % 8 != 0
    analytic = float(AnalyticCosts(cluster).predict(Gemm(m=m, n=n, k=k)).latency_s)
    return 1.3 * analytic * (1.1 if ragged else 1.0)


def gemm_rows(
    cluster: ClusterSpec, m: tuple[int, ...] = M, nk: tuple[tuple[int, int], ...] = NK
) -> list[dict[str, Any]]:
    """Rows of the imagined machine's GEMMs."""
    return [
        common(true_gemm_s(cluster, size, n, k), m=size, n=n, k=k, scaling="none", quantise=False)
        for (n, k), size in product(nk, m)
    ]


def attention_rows(cluster: ClusterSpec) -> list[dict[str, Any]]:
    """Whole prompts and equal decodes of two head layouts."""
    costs, rows = AnalyticCosts(cluster), []
    shape = {"head_dim": 128, "v_head_dim": 128, "window": 0}
    for heads, kv_heads in ((8, 1), (32, 8)):
        heads_of = {"num_heads": heads, "num_kv_heads": kv_heads}
        for count, length in product((1, 2, 8), (16, 128, 512, 2048, 8192)):
            prefill = {"num_prefill": count, "prefill_q": length, "prefill_kv": length}
            nothing = {"num_decode": 0, "decode_q": 1, "decode_kv": 0, "decode_kv_max": 0}
            op = Attention(**heads_of, **shape, **prefill)
            fixed = {"variant": "gqa", "kv_dtype": "bf16", "backend": "vllm.flash_attn_fa3"}
            latency_s = 1.2 * float(costs.predict(op).latency_s)
            rows.append(common(latency_s, phase="prefill") | heads_of | shape | prefill | nothing | fixed)
        for count, length in product((1, 4, 16, 64), (16, 256, 1024, 4096, 16384)):
            decode = {"num_decode": count, "decode_q": 1, "decode_kv": length, "decode_kv_max": length}
            nothing = {"num_prefill": 0, "prefill_q": 0, "prefill_kv": 0}
            op = Attention(**heads_of, **shape, **decode)
            fixed = {"variant": "gqa", "kv_dtype": "bf16", "backend": "vllm.flash_attn_fa3"}
            latency_s = 1.1 * float(costs.predict(op).latency_s)
            rows.append(common(latency_s, phase="decode") | heads_of | shape | decode | nothing | fixed)
    return rows


def moe_rows(cluster: ClusterSpec) -> list[dict[str, Any]]:
    """Routed experts of one model at two shardings."""
    costs, rows = AnalyticCosts(cluster), []
    for tokens, ep in product((1, 4, 16, 64, 256, 1024, 4096), (1, 8)):
        shape = {"hidden": 2048, "inter": 768, "num_experts": 128, "topk": 8, "tp": 1, "ep": ep}
        latency_s = 1.4 * float(costs.predict(Moe(num_tokens=tokens, **shape)).latency_s)
        rows.append(common(latency_s, backend="triton", num_tokens=tokens, routing="balanced") | shape)
    return rows


def elementwise_rows(cluster: ClusterSpec) -> list[dict[str, Any]]:
    """One small op at two widths."""
    costs, rows = AnalyticCosts(cluster), []
    for count, width in product((1, 16, 256, 4096, 16384), (2048, 8192)):
        op = Elementwise(op="rmsnorm", rows=count, width=width, bytes_per_row=4.0 * width)
        latency_s = 1.1 * float(costs.predict(op).latency_s)
        rows.append(
            common(latency_s, backend="triton", op="rmsnorm", rows=count, width=width, io_bytes=4 * width * count)
        )
    return rows


def collective_rows(cluster: ClusterSpec) -> list[dict[str, Any]]:
    """All-reduce on both of its paths, reduce-scatter and all-gather, inside a node."""
    costs, rows = AnalyticCosts(cluster), []
    for kind, ranks, power in product(("all_reduce", "reduce_scatter", "all_gather"), (2, 8), range(10, 29, 2)):
        latency_s = float(costs.predict(Collective(kind=kind, message_bytes=2**power, ranks=ranks)).latency_s)
        shape = {"kind": kind, "ranks": ranks, "nodes": 1, "level": "nvlink", "message_bytes": 2**power}
        rows.append(common(1.5 * latency_s, backend="nccl") | shape)
        if kind == "all_reduce":
            rows.append(common(0.9 * latency_s, backend="vllm.custom_all_reduce") | shape)
    return rows


@pytest.fixture(scope="session")
def cluster() -> ClusterSpec:
    """Two nodes of eight H100."""
    return load_cluster("h100-sxm-2x8")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, cluster: ClusterSpec) -> Store:
    """Fill a database with all five families."""
    folder: Path = tmp_path_factory.mktemp("profiles")
    store = open_store(folder, bundled=None)
    store.append("gemm", gemm_rows(cluster), "run-1")
    store.append("attention", attention_rows(cluster), "run-1")
    store.append("moe", moe_rows(cluster), "run-1")
    store.append("elementwise", elementwise_rows(cluster), "run-1")
    store.append("collective", collective_rows(cluster), "run-1")
    return store


@pytest.fixture(scope="session")
def artefact(store: Store, cluster: ClusterSpec) -> Artefact:
    """Fit a model to that database."""
    return fit_device(store, DEVICE, cluster)


@pytest.fixture
def sizes() -> np.ndarray:
    """Token counts on, between and beyond the measured ones."""
    return np.array([1, 3, 16, 17, 24, 100, 129, 250, 512, 700, 1024, 3000])


@pytest.fixture(scope="session")
def rtx_4090_fit() -> Artefact:
    """Return the bundled fit of the RTX 4090, the smallest of all."""
    path = bundled_fit("rtx-4090")
    assert path is not None
    return load_artefact(path)


@pytest.fixture(scope="session")
def rtx_4090(rtx_4090_fit: Artefact) -> ClusterSpec:
    """Return the cluster it was fitted on."""
    return load_cluster(rtx_4090_fit.provenance.cluster)
