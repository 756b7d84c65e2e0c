"""Compute kernels of the aiconfigurator wheel: GEMM, attention, experts.

Timing is CUDA events around graph replays over rotating weight copies without a flush of the second-level cache.
"""

from collections.abc import Callable, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from profiles_db.importers.aiconfigurator_columns import (
    ELEMENT_FORMATS,
    Mapped,
    Origin,
    backend_names,
    latency_s,
    launch_kind,
    power_columns,
    renamed,
)
from profiles_db.importers.counting import Sieve
from profiles_db.importers.rows import Column

# gemm_dtype -> (our dtype, scaling, whether activations are quantised inside the timing)
_GEMM_FORMATS: Final[Mapping[str, tuple[str, str, bool]]] = {
    "bfloat16": ("bf16", "none", False),
    "fp8": ("fp8", "tensor", True),
    "fp8_block": ("fp8_block", "group128", True),
    "int8_wo": ("w8a16", "row", False),
    "int4_wo": ("w4a16", "group128", False),
    "sq": ("w8a8", "row", False),
    "nvfp4": ("nvfp4", "group16", True),
}

_MOE_FORMATS: Final[Mapping[str, str]] = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "int4_wo": "w4a16",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_mxfp8",
    "w4afp8": "w4a8",
    "nvfp4": "nvfp4",
}


def gemm(sieve: Sieve, origin: Origin) -> Mapped:
    """Dense GEMM; vLLM's block-scaled FP8 rows were timed without a CUDA graph and carry the launch overhead."""
    sieve.drop_unknown_formats("gemm_dtype", _GEMM_FORMATS)
    eager = pc.equal(sieve.column("gemm_dtype"), "fp8_block") if origin.framework == "vllm" else None
    launch: Column = launch_kind(origin)
    if eager is not None and pc.any(eager).as_py():
        if not origin.include_unfit:
            sieve.drop(eager, "fp8_block timed eagerly (launch overhead in it)")
        else:
            launch = pc.if_else(eager, "eager", launch_kind(origin))
    formats = sieve.column("gemm_dtype")
    quantises = pa.array([name for name, (_, _, quantise) in _GEMM_FORMATS.items() if quantise])
    return Mapped(
        family="gemm",
        columns={
            **{name: sieve.column(name) for name in ("m", "n", "k")},
            "scaling": renamed(formats, {name: scaling for name, (_, scaling, _) in _GEMM_FORMATS.items()}),
            "quantise": pc.is_in(formats.cast(pa.string()), value_set=quantises),
            "dtype": renamed(formats, {name: dtype for name, (dtype, _, _) in _GEMM_FORMATS.items()}),
            "backend": backend_names(sieve, origin),
            "latency_s": latency_s(sieve),
            "launch": launch,
            **power_columns(sieve),
        },
    )


def _attention_formats(sieve: Sieve, compute: str) -> dict[str, Column]:
    sieve.drop_unknown_formats(compute, ELEMENT_FORMATS)
    sieve.drop_unknown_formats("kv_cache_dtype", ELEMENT_FORMATS)
    names = {name: dtype for name, (dtype, _) in ELEMENT_FORMATS.items()}
    return {
        "dtype": renamed(sieve.column(compute), names),
        "kv_dtype": renamed(sieve.column("kv_cache_dtype"), names),
    }


def _prefill(sieve: Sieve) -> dict[str, Column]:
    """``step`` is the history in front of the chunk (always 0 so far)."""
    return {
        "phase": "prefill",
        "num_prefill": sieve.column("batch_size"),
        "prefill_q": sieve.column("isl"),
        "prefill_kv": pc.add(sieve.column("isl"), sieve.column("step")),
        "num_decode": 0,
        "decode_q": 1,
        "decode_kv": 0,
        "decode_kv_max": 0,
    }


def _decode(sieve: Sieve) -> dict[str, Column]:
    """``step`` is the history, so the new token sees ``step + isl`` keys (isl is 1); all sequences are equally long."""
    seen = pc.add(sieve.column("step"), sieve.column("isl"))
    return {
        "phase": "decode",
        "num_prefill": 0,
        "prefill_q": 0,
        "prefill_kv": 0,
        "num_decode": sieve.column("batch_size"),
        "decode_q": sieve.column("isl"),
        "decode_kv": seen,
        "decode_kv_max": seen,
    }


def _gqa(sieve: Sieve, origin: Origin, lengths: Callable[[Sieve], dict[str, Column]]) -> Mapped:
    sieve.drop(pc.not_equal(sieve.column("beam_width"), 1), "beam search")
    formats = _attention_formats(sieve, "attn_dtype")
    has_window = "window_size" in sieve.table.column_names
    return Mapped(
        family="attention",
        columns={
            **formats,
            **lengths(sieve),
            "variant": "gqa",
            "num_heads": sieve.column("num_heads"),
            "num_kv_heads": sieve.column("num_key_value_heads"),
            "head_dim": sieve.column("head_dim"),
            "v_head_dim": sieve.column("head_dim"),
            "window": sieve.column("window_size") if has_window else 0,
            "backend": backend_names(sieve, origin),
            "latency_s": latency_s(sieve),
            "launch": launch_kind(origin),
            **power_columns(sieve),
        },
    )


def _mla(sieve: Sieve, origin: Origin, lengths: Callable[[Sieve], dict[str, Column]], *, is_absorbed: bool) -> Mapped:
    """DeepSeek's dimensions: 128 + 64 rotary, values 128; absorbed: latent 512 + 64 rotary shared by all heads."""
    formats = _attention_formats(sieve, "mla_dtype")
    heads = sieve.column("num_heads")
    return Mapped(
        family="attention",
        columns={
            **formats,
            **lengths(sieve),
            "variant": "mla",
            "num_heads": heads,
            "num_kv_heads": 1 if is_absorbed else heads,
            "head_dim": 576 if is_absorbed else 192,
            "v_head_dim": 512 if is_absorbed else 128,
            "window": 0,
            "backend": backend_names(sieve, origin),
            "latency_s": latency_s(sieve),
            "launch": launch_kind(origin),
        },
    )


def context_attention(sieve: Sieve, origin: Origin) -> Mapped:
    """Map prefill attention."""
    return _gqa(sieve, origin, _prefill)


def generation_attention(sieve: Sieve, origin: Origin) -> Mapped:
    """Map decode attention."""
    return _gqa(sieve, origin, _decode)


def context_mla(sieve: Sieve, origin: Origin) -> Mapped:
    """Map latent attention in prefill: keys and values expanded per head."""
    return _mla(sieve, origin, _prefill, is_absorbed=False)


def generation_mla(sieve: Sieve, origin: Origin) -> Mapped:
    """Map latent attention in decode: projections absorbed into the query."""
    return _mla(sieve, origin, _decode, is_absorbed=True)


def moe(sieve: Sieve, origin: Origin) -> Mapped:
    """Routed experts of one rank; ``num_tokens`` counts the whole expert-parallel group's tokens."""
    sieve.drop_unknown_formats("moe_dtype", _MOE_FORMATS)
    ungated = pc.match_substring(sieve.column("kernel_source"), "nongated")
    sieve.drop(ungated, "experts without a gate projection")
    return Mapped(
        family="moe",
        columns={
            "num_tokens": sieve.column("num_tokens"),
            "hidden": sieve.column("hidden_size"),
            "inter": sieve.column("inter_size"),
            "num_experts": sieve.column("num_experts"),
            "topk": sieve.column("topk"),
            "tp": sieve.column("moe_tp_size"),
            "ep": sieve.column("moe_ep_size"),
            "routing": sieve.column("distribution"),
            "dtype": renamed(sieve.column("moe_dtype"), _MOE_FORMATS),
            "backend": backend_names(sieve, origin),
            "latency_s": latency_s(sieve),
            "launch": launch_kind(origin),
            **power_columns(sieve),
        },
    )
