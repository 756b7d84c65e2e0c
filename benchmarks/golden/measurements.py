"""A measured database that is the same everywhere: closed-form times with a fixed unevenness, in every family."""

import math
from itertools import product
from pathlib import Path
from typing import Any, Final

from profiles_db.store import open_store

_COMMON: Final = {"device": "h100-sxm", "launch": "graph", "status": "ok", "origin": "measured", "dtype": "bf16"}


def _uneven(latency_s: float, *sizes: float) -> float:
    """Move a time by up to 4 %, by a fixed function of its shape."""
    return latency_s * (1.0 + 0.04 * math.sin(sum((place + 1.7) * size for place, size in enumerate(sizes))))


def _row(
    backend: str, latency_s: float, *, joules: bool = False, cache: str = "cold", **columns: Any
) -> dict[str, Any]:
    row = {**_COMMON, "backend": backend, "latency_s": latency_s, "cache": cache, **columns}
    if joules:
        row |= {"energy_j": latency_s * 450.0, "power_w": 450.0, "sm_clock_mhz": 1755.0}
    return row


def _gemm() -> list[dict[str, Any]]:
    rows = []
    for m, n, k, dtype in product((1, 8, 16, 64, 128, 512, 2048), (1024, 4096, 14336), (1024, 4096), ("bf16", "fp8")):
        rate, size = (700e12, 2) if dtype == "bf16" else (1300e12, 1)
        seconds = 3e-6 + max(2.0 * m * n * k / rate, size * n * k / 2.6e12)
        fixed = {"dtype": dtype, "scaling": "none" if dtype == "bf16" else "tensor", "quantise": False}
        backend = "torch.cublas" if dtype == "bf16" else "torch.scaled_mm"
        rows.append(_row(backend, _uneven(seconds, m, n, k), joules=m >= 512, m=m, n=n, k=k, **fixed))
    return rows


def _attention() -> list[dict[str, Any]]:
    rows = []
    none = {"num_prefill": 0, "prefill_q": 0, "prefill_kv": 0, "num_decode": 0, "decode_q": 1}
    for (heads, kv_heads), count, length in product(((32, 8), (8, 1)), (1, 4, 16), (128, 512, 2048, 8192)):
        shape = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": 128, "v_head_dim": 128, "window": 0}
        fixed = {"variant": "gqa", "kv_dtype": "bf16", **shape, **none, "decode_kv": 0, "decode_kv_max": 0}
        prefill = {"phase": "prefill", "num_prefill": count, "prefill_q": length, "prefill_kv": length}
        seconds = 5e-6 + count * length * length / 2 * heads * 512 / 400e12
        rows.append(_row("vllm.flash_attn_fa3", _uneven(seconds, heads, count, length), **{**fixed, **prefill}))
        decode = {"phase": "decode", "num_decode": count, "decode_kv": length, "decode_kv_max": length}
        seconds = 6e-6 + count * length * kv_heads * 512 / 2.2e12
        rows.append(_row("vllm.flash_attn_fa3", _uneven(seconds, kv_heads, count, length), **{**fixed, **decode}))
    return rows


def _moe() -> list[dict[str, Any]]:
    rows = []
    for tokens, ep, experts in product((1, 8, 64, 512, 4096), (1, 4), (8, 64)):
        shape = {"hidden": 4096, "inter": 1536, "num_experts": experts, "topk": 2, "tp": 1, "ep": ep}
        active = experts / ep * (1 - (1 - 2 / experts) ** tokens)
        seconds = 9e-6 + max(active * 6 * 4096 * 1536 / 2.4e12, tokens * 2 / ep * 6 * 4096 * 1536 / 500e12)
        rows.append(
            _row("triton", _uneven(seconds, tokens, ep, experts), num_tokens=tokens, routing="balanced", **shape)
        )
    return rows


def _elementwise() -> list[dict[str, Any]]:
    rows = []
    for op, count, width in product(("rmsnorm", "silu_mul"), (1, 32, 1024, 16384), (2048, 8192)):
        moved = count * width * (4 if op == "rmsnorm" else 6)
        seconds = _uneven(2e-6 + moved / 2.5e12, count, width)
        rows.append(_row("triton", seconds, cache="hot", op=op, rows=count, width=width, io_bytes=moved))
    return rows


def _collective() -> list[dict[str, Any]]:
    rows = []
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
    for kind, ranks, power in product(kinds, (2, 4, 8), range(10, 29, 3)):
        seconds = _uneven(8e-6 + 2 ** (power + 1) / 360e9 * (ranks - 1) / ranks, ranks, power)
        shape = {"kind": kind, "ranks": ranks, "nodes": 1, "level": "nvlink", "message_bytes": 2**power}
        rows.append(_row("nccl", seconds, **shape))
        if kind == "all_reduce" and power < 23:
            rows.append(_row("vllm.custom_all_reduce", 0.7 * seconds, **shape))
    return rows


def write_measurements(folder: Path) -> None:
    """Write the made rows into a new database in ``folder``."""
    store = open_store(folder, bundled=None)
    for family, rows in (
        ("gemm", _gemm()),
        ("attention", _attention()),
        ("moe", _moe()),
        ("elementwise", _elementwise()),
        ("collective", _collective()),
    ):
        store.append(family, rows, "golden")
