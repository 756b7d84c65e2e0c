"""Ops that a vLLM built for CPUs has kernels for; run by itself, under that vLLM's Python, it runs each of them."""

import torch

from costmodel.ops.small_ops import small_op
from profiler.kernels.buffers import Buffers
from profiler.kernels.vllm_cpu_backend import VllmCpuBackend
from profiler.point import OpShape, small_op_shape

HEADS = {"variant": "gqa", "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "v_head_dim": 64, "window": 0}


def gemm(m, dtype="bf16"):
    return OpShape.of("gemm", dtype=dtype, m=m, n=64, k=32, scaling="none", quantise=False)


def attention(prefill, decode):
    (chunks, q, kv), (sequences, length) = prefill, decode
    sizes = {"num_prefill": chunks, "prefill_q": q, "prefill_kv": kv, "num_decode": sequences, "decode_q": 1}
    sizes |= {"decode_kv": length, "decode_kv_max": length}
    return OpShape.of("attention", dtype="bf16", phase="mixed", kv_dtype="bf16", **HEADS, **sizes)


def experts(tokens):
    sizes = {"num_tokens": tokens, "hidden": 64, "inter": 64, "topk": 2, "num_experts": 4, "ep": 1, "tp": 1}
    return OpShape.of("moe", dtype="bf16", routing="balanced", **sizes)


def small_ops():
    widths = {"rmsnorm": 64, "add_rmsnorm": 64, "silu_mul": 64, "rope": 192, "kv_write": 256, "sampler": 128}
    for name, width in widths.items():
        yield small_op_shape(small_op(name, rows=3, width=width, dtype="bf16", out="bf16" * (name == "kv_write")))
    yield small_op_shape(small_op("topk", rows=3, width=8, dtype="fp32", chosen=2))


def every_op():
    return [gemm(1), gemm(7), attention((1, 5, 9), (3, 40)), attention((0, 0, 0), (2, 130)), experts(5), *small_ops()]


if __name__ == "__main__":
    buffers, backend = Buffers(torch.device("cpu"), cold_bytes=1 << 16, seed=0), VllmCpuBackend()
    for op in every_op():
        buffers.begin(is_cold=True)
        prepared = backend.prepare(op, backend.kernels_for(op)[0], buffers)
        for i in range(prepared.copies + 1):
            prepared.launch(i)
    print("ran", len(every_op()), "ops")
