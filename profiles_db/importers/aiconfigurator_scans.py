"""Scans of the aiconfigurator wheel: the gated delta rule of Qwen3.5, per rank, through vLLM's and SGLang's kernels.

The tables do not record the state's number format. vLLM and SGLang keep it in fp32, and their steps move an fp32 state
at 0.77 to 0.90 of the stated bandwidth; TensorRT-LLM's would need 1.0 to 1.2 of it.
"""

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from profiles_db.importers.aiconfigurator_columns import (
    Mapped,
    Origin,
    backend_names,
    latency_s,
    launch_kind,
    power_columns,
)
from profiles_db.importers.counting import Sieve

_CHUNK: Final = 64  # tokens of a chunk in all kernels of the gated delta rule
_FP32_STATES: Final = frozenset({"vllm", "sglang"})


def gated_delta(sieve: Sieve, origin: Origin) -> Mapped:
    """Prompts and decode steps of one token; the short convolution before them is an op of its own."""
    convolution = pc.match_substring(sieve.column("kernel_source").cast(pa.string()), "conv1d")
    sieve.drop(convolution, "short convolution, whose bytes are not those of our op")
    if origin.framework not in _FP32_STATES and not origin.include_unfit:
        everything = pa.chunked_array([pa.array([True] * sieve.table.num_rows, pa.bool_())])
        sieve.drop(everything, "format of the state not recorded: faster than an fp32 state can be read and written")
    is_prefill = pc.equal(sieve.column("phase").cast(pa.string()), "context")
    batch, tokens = sieve.column("batch_size"), sieve.column("seq_len")
    return Mapped(
        family="scan",
        columns={
            "phase": pc.if_else(is_prefill, "prefill", "decode"),
            "variant": "gated_delta",
            "num_heads": sieve.column("num_v_heads"),
            "num_groups": sieve.column("num_k_heads"),
            "head_dim": sieve.column("head_v_dim"),
            "state_dim": sieve.column("head_k_dim"),
            "chunk": _CHUNK,
            "state_dtype": "fp32",
            "num_prefill": pc.if_else(is_prefill, batch, 0),
            "prefill_q": pc.if_else(is_prefill, tokens, 0),
            "num_decode": pc.if_else(is_prefill, 0, batch),
            "decode_q": pc.if_else(is_prefill, 1, tokens),
            "dtype": "bf16",
            "backend": backend_names(sieve, origin),
            "latency_s": latency_s(sieve),
            "launch": launch_kind(origin),
            **power_columns(sieve),
        },
    )
