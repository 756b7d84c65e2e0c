"""How each aiconfigurator table maps to an op family, with its units and known defects.

Source of the columns' meaning: the tables of ``aiconfigurator-core`` 0.12.0 and its public collector. Latencies are
milliseconds per call; timing is CUDA events around graph replays over rotating weight copies without an L2 flush, hence
``cache`` is ``hot``; collective sizes are elements of nccl-tests' total payload S.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiles_db.importers.counting import Sieve
from profiles_db.importers.rows import Column

MS: Final = 1e-3

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
    "w4afp8": "w4a8",
    "nvfp4": "nvfp4",
}

_ELEMENT: Final[Mapping[str, tuple[str, int]]] = {
    "half": ("fp16", 2),
    "float16": ("fp16", 2),
    "bfloat16": ("bf16", 2),
    "int8": ("int8", 1),
    "fp8": ("fp8", 1),
}

_COLLECTIVES: Final[Mapping[str, str]] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}

# A group whose bus bandwidth at its largest message is below this share of the same node's pair is not a link speed.
_SICK_FRACTION: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a foreign table was collected."""

    framework: str  # vllm, sglang, trtllm, nccl, oneccl
    level: str  # name of the link level inside a node
    devices_per_node: int
    has_graphs: bool  # False where the platform has none and every row is launched eagerly
    include_unfit: bool  # keep eager and sick rows, labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """Rows that fit a family; columns shared by all tables (device, run, ...) are added by the caller."""

    family: str
    columns: Mapping[str, Column]


Mapper = Callable[[Sieve, Origin], Mapped]


def _renamed(column: pa.ChunkedArray, names: Mapping[str, str]) -> pa.ChunkedArray:
    """Map every value through ``names``; a value without an entry becomes null."""
    keys, values = pa.array(list(names), pa.string()), pa.array(list(names.values()), pa.string())
    return values.take(pc.index_in(column.combine_chunks().cast(pa.string()), value_set=keys))


def _known(column: pa.ChunkedArray, names: Mapping[str, object]) -> pa.ChunkedArray:
    return pc.is_in(column.cast(pa.string()), value_set=pa.array(list(names), pa.string()))


def _drop_unknown_formats(sieve: Sieve, column: str, names: Mapping[str, object]) -> None:
    for value in pc.unique(sieve.column(column)).to_pylist():
        if value not in names:
            sieve.drop(pc.equal(sieve.column(column), value), f"number format {value} has no counterpart")


def _backend(sieve: Sieve, origin: Origin) -> pa.Array:
    """Name the kernel source as ``<framework>.<kernel>``, cuBLAS as what it is."""
    column = sieve.column("kernel_source").combine_chunks().cast(pa.string())
    names = {}
    for source in pc.unique(column).to_pylist():
        name = str(source).removeprefix(f"{origin.framework}_").replace("/", ".")
        is_linear = name in {"torch.nn.functional.linear", "torch_linear"}
        names[source] = "torch.cublas" if is_linear and origin.has_graphs else f"{origin.framework}.{name}"
    return _renamed(pa.chunked_array([column]), names)


def _latency_s(sieve: Sieve) -> pa.ChunkedArray:
    return pc.multiply(sieve.column("latency"), MS)


def _launch(origin: Origin) -> str:
    return "graph" if origin.has_graphs else "eager"


def gemm(sieve: Sieve, origin: Origin) -> Mapped:
    """Dense GEMM; vLLM's block-scaled FP8 rows were timed without a CUDA graph and carry the launch overhead."""
    _drop_unknown_formats(sieve, "gemm_dtype", _GEMM_FORMATS)
    eager = pc.equal(sieve.column("gemm_dtype"), "fp8_block") if origin.framework == "vllm" else None
    launch: Column = _launch(origin)
    if eager is not None and pc.any(eager).as_py():
        if not origin.include_unfit:
            sieve.drop(eager, "fp8_block timed eagerly (launch overhead in it)")
        else:
            launch = pc.if_else(eager, "eager", _launch(origin))
    formats = sieve.column("gemm_dtype")
    quantises = pa.array([name for name, (_, _, quantise) in _GEMM_FORMATS.items() if quantise])
    return Mapped(
        family="gemm",
        columns={
            **{name: sieve.column(name) for name in ("m", "n", "k")},
            "scaling": _renamed(formats, {name: scaling for name, (_, scaling, _) in _GEMM_FORMATS.items()}),
            "quantise": pc.is_in(formats.cast(pa.string()), value_set=quantises),
            "dtype": _renamed(formats, {name: dtype for name, (dtype, _, _) in _GEMM_FORMATS.items()}),
            "backend": _backend(sieve, origin),
            "latency_s": _latency_s(sieve),
            "launch": launch,
            **_power(sieve),
        },
    )


def _power(sieve: Sieve) -> dict[str, Column]:
    return {"power_w": sieve.column("power")} if "power" in sieve.table.column_names else {}


def _attention_formats(sieve: Sieve, compute: str) -> dict[str, Column]:
    _drop_unknown_formats(sieve, compute, _ELEMENT)
    _drop_unknown_formats(sieve, "kv_cache_dtype", _ELEMENT)
    names = {name: dtype for name, (dtype, _) in _ELEMENT.items()}
    return {
        "dtype": _renamed(sieve.column(compute), names),
        "kv_dtype": _renamed(sieve.column("kv_cache_dtype"), names),
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
            "backend": _backend(sieve, origin),
            "latency_s": _latency_s(sieve),
            "launch": _launch(origin),
            **_power(sieve),
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
            "backend": _backend(sieve, origin),
            "latency_s": _latency_s(sieve),
            "launch": _launch(origin),
        },
    )


def moe(sieve: Sieve, origin: Origin) -> Mapped:
    """Routed experts of one rank; ``num_tokens`` counts the whole expert-parallel group's tokens."""
    _drop_unknown_formats(sieve, "moe_dtype", _MOE_FORMATS)
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
            "dtype": _renamed(sieve.column("moe_dtype"), _MOE_FORMATS),
            "backend": _backend(sieve, origin),
            "latency_s": _latency_s(sieve),
            "launch": _launch(origin),
            **_power(sieve),
        },
    )


def nccl(sieve: Sieve, origin: Origin) -> Mapped:
    """Map nccl-tests (or oneCCL) rows; ``message_size`` is S in elements, timed without a CUDA graph."""
    sieve.drop(pc.invert(_known(sieve.column("op_name"), _COLLECTIVES)), "collective without a counterpart")
    _drop_unknown_formats(sieve, "nccl_dtype", _ELEMENT)
    return _collective(sieve, origin, "nccl_dtype", backend=origin.framework, launch="eager")


def custom_allreduce(sieve: Sieve, origin: Origin) -> Mapped:
    """Map the engine's own all-reduce; serving replays it from a CUDA graph, so eager rows are unfit."""
    _drop_unknown_formats(sieve, "allreduce_dtype", _ELEMENT)
    eager = pc.match_substring(sieve.column("kernel_source"), "_eager")
    launch: Column = "graph"
    if origin.include_unfit or not origin.has_graphs:
        launch = pc.if_else(eager, "eager", "graph")
    else:
        sieve.drop(eager, "all-reduce timed eagerly (launch overhead in it)")
    names = {}
    for value in pc.unique(sieve.column("kernel_source")).to_pylist():
        kernel = str(value).removeprefix("TRTLLM").strip("_").lower()
        is_trtllm = str(value).startswith("TRTLLM")
        names[value] = f"trtllm.{kernel or 'all_reduce'}" if is_trtllm else f"{origin.framework}.custom_all_reduce"
    backend = _renamed(sieve.column("kernel_source"), names)
    return _collective(sieve, origin, "allreduce_dtype", backend=backend, launch=launch)


def _collective(sieve: Sieve, origin: Origin, dtype_column: str, *, backend: Column, launch: Column) -> Mapped:
    widths = {name: str(width) for name, (_, width) in _ELEMENT.items()}
    element_bytes = _renamed(sieve.column(dtype_column), widths).cast(pa.int64())
    message_bytes = pc.multiply(sieve.column("message_size"), element_bytes)
    ranks = sieve.column("num_gpus").to_numpy()
    kind = _renamed(sieve.column("op_name"), _COLLECTIVES)
    return Mapped(
        family="collective",
        columns={
            "kind": kind,
            "ranks": sieve.column("num_gpus"),
            "nodes": -(-ranks // origin.devices_per_node),
            "level": origin.level,
            "message_bytes": message_bytes,
            "dtype": _renamed(sieve.column(dtype_column), {name: dtype for name, (dtype, _) in _ELEMENT.items()}),
            "backend": backend,
            "latency_s": _latency_s(sieve),
            "launch": launch,
        },
    )


def sick_collectives(rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Mark groups whose bus bandwidth at the largest message collapses against a pair on the same node.

    Measured on a healthy node it falls by at most a factor of four from 2 to 8 ranks, even over PCIe.
    """
    ranks, size = rows["ranks"].to_numpy(), rows["message_bytes"].to_numpy()
    seconds = rows["latency_s"].to_numpy()
    kind = rows["kind"].to_numpy(zero_copy_only=False)
    sick = np.zeros(rows.num_rows, dtype=np.bool_)
    for name in np.unique(kind):
        best = {}
        for group in np.unique(ranks[kind == name]):
            chosen = (kind == name) & (ranks == group)
            largest = chosen & (size == size[chosen].max())
            factor = (2.0 if name == "all_reduce" else 1.0) * (group - 1) / group
            best[group] = float(np.max(size[largest] / seconds[largest]) * factor)
        for group, speed in best.items():
            if 2 in best and speed < _SICK_FRACTION * best[2]:
                sick |= (kind == name) & (ranks == group)
    return sick


def scale_matrix(sieve: Sieve, origin: Origin) -> Mapped:
    """Map static FP8 quantisation of [m, k] activations: 16 bits read, 8 bits written per element."""
    elements = pc.multiply(sieve.column("m"), sieve.column("k"))
    return Mapped(
        family="elementwise",
        columns={
            "op": "quantise",
            "rows": sieve.column("m"),
            "width": sieve.column("k"),
            "io_bytes": pc.multiply(elements, 3),
            "dtype": "fp8",
            "backend": _backend(sieve, origin),
            "latency_s": _latency_s(sieve),
            "launch": _launch(origin),
        },
    )


MAPPERS: Final[Mapping[str, Mapper]] = {
    "gemm": gemm,
    "context_attention": lambda sieve, origin: _gqa(sieve, origin, _prefill),
    "generation_attention": lambda sieve, origin: _gqa(sieve, origin, _decode),
    "context_mla": lambda sieve, origin: _mla(sieve, origin, _prefill, is_absorbed=False),
    "generation_mla": lambda sieve, origin: _mla(sieve, origin, _decode, is_absorbed=True),
    "moe": moe,
    "nccl": nccl,
    "oneccl": nccl,
    "custom_allreduce": custom_allreduce,
    "scale_matrix": scale_matrix,
}

_MODULE: Final = "a whole attention block with its projections: no op family holds it"

# Why a table has no place in the schema; anything not named here is reported as unknown.
UNMAPPED: Final[Mapping[str, str]] = {
    "computescale": "difference of two timings, not a measurement",
    "encoder_attention": "attention without a causal mask has no columns in the schema",
    "mla_bmm": "batched GEMM has no columns in the schema",
    "mla_context_module": _MODULE,
    "mla_generation_module": _MODULE,
    "wideep_context_mla": _MODULE,
    "wideep_generation_mla": _MODULE,
    "moe_a2a": "microseconds of dispatch and combine whose wire format is not recorded",
    "trtllm_alltoall": "dispatch and combine whose wire format is not recorded",
    "wideep_deepep_ll": "microseconds of dispatch and combine whose wire format is not recorded",
    "wideep_deepep_normal": "microseconds of dispatch and combine whose wire format is not recorded",
}
