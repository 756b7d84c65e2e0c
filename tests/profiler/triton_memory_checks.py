"""Our Triton kernels touch nothing beyond their operands and results; `test_triton_kernels.py` runs this file.

Interpreted kernels read and write real addresses. Every operand and every result ends where a page begins that nobody
may touch: one element too far ends this process. On a GPU compute-sanitizer says the same.
"""

import ctypes
import math
import mmap

import pytest
import torch

from profiler.kernels import triton_attention, triton_experts, triton_groups, triton_linear, triton_rows
from profiler.kernels.attention import page_table
from profiler.kernels.attention_plan import AttentionPlan
from profiler.kernels.triton_tiles import pack

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="guards the host's memory")
FP8 = torch.float8_e4m3fn


def guarded(shape, dtype=torch.float32):
    """Return an empty tensor whose last byte lies before a page nobody may touch."""
    size = math.prod(shape) * dtype.itemsize
    room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    region = mmap.mmap(-1, room + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + room), mmap.PAGESIZE, 0) == 0
    if not size:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(region, dtype=torch.uint8, count=size, offset=room - size).view(dtype).view(shape)


def fenced(tensor):
    """Return a guarded copy."""
    return guarded(tensor.shape, tensor.dtype).copy_(tensor)


@pytest.fixture(autouse=True)
def _guarded_results(monkeypatch):
    """Guard what our launches allocate, which is by tuples; the interpreter's own empty tensors are left alone."""
    empty, new_empty = torch.empty, torch.Tensor.new_empty

    def allocate(shape, *, dtype=torch.float32, **options):
        return guarded(shape, dtype) if isinstance(shape, tuple) else empty(shape, dtype=dtype, **options)

    def allocate_like(tensor, shape, *, dtype=None, **options):
        is_ours = isinstance(shape, tuple)
        return guarded(shape, dtype or tensor.dtype) if is_ours else new_empty(tensor, shape, **options)

    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(torch, "empty_like", lambda x, dtype=None: guarded(x.shape, dtype or x.dtype))
    monkeypatch.setattr(torch.Tensor, "new_empty", allocate_like)


def normal(*shape, dtype=torch.float16):
    return fenced(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))


def integers(low, high, *shape, dtype=torch.int32):
    return fenced(torch.randint(low, high, shape, generator=torch.Generator().manual_seed(0)).to(dtype))


def weights(kind, *shape):
    """Weights of a kind and their scales."""
    *stack, n, k = shape
    if kind == "int4":
        return fenced(pack(integers(0, 16, *shape), kind)), normal(*stack, k // 128, n)
    if kind == "mxfp4":
        return fenced(pack(integers(0, 16, *shape), kind)), integers(120, 127, *stack, k // 32, n, dtype=torch.uint8)
    if kind == "block":
        return normal(*shape, dtype=FP8), normal(*stack, k // 128, -(-n // 128), dtype=torch.float32)
    return integers(-127, 128, *shape, dtype=torch.int8), normal(*stack, n, dtype=torch.float32)


@pytest.mark.parametrize("m", [3, 70])
@pytest.mark.parametrize(
    ("kind", "n", "k"),
    [
        ("block", 200, 256),
        ("int4", 70, 256),
        ("mxfp4", 70, 192),
        ("int8", 70, 200),
        ("int8", 1, 8),
        ("plain", 70, 200),
    ],
)
def test_linear_layers(kind, n, k, m):
    """Ragged rows, columns and k stay inside x, weights, scales and result, split or not."""
    w, scale = weights(kind, n, k)
    x = normal(m, k, dtype=FP8 if kind == "block" else torch.float16)
    x_scale = normal(k // 128, m, dtype=torch.float32) if kind == "block" else None
    if kind == "plain":
        x, x_scale = integers(-127, 128, m, k, dtype=torch.int8), normal(m, 1, dtype=torch.float32)
    assert triton_linear.linear(x, w, scale, kind=kind, x_scale=x_scale).shape == (m, n)


@pytest.mark.parametrize("ends", [[1, 1, 4], [70, 71, 150]])
@pytest.mark.parametrize("kind", ["plain", "int8", "block", "int4", "mxfp4"])
def test_expert_layers(kind, ends):
    """Ragged experts stay inside tokens, weights, scales, source and weight of each row, and result."""
    values, scales = weights(kind, len(ends), 72, 256)
    x, x_scale = normal(5, 256, dtype=FP8 if kind == "block" else torch.float16), None
    if kind == "plain":
        values, scales = normal(len(ends), 72, 256), None
    elif kind == "int8":  # W8A8: integers on both sides
        kind, x, x_scale = "plain", integers(-127, 128, 5, 256, dtype=torch.int8), normal(5, dtype=torch.float32)
    elif kind == "block":
        x_scale = normal(2, 5, dtype=torch.float32)
    multiply = triton_experts.GroupedGemm(torch.tensor(ends, dtype=torch.int32))
    multiply._tiles = fenced(multiply._tiles)
    experts = triton_experts.ExpertWeights(kind=kind, values=values, scales=scales)
    source, weight = integers(0, 5, ends[-1]), normal(ends[-1], dtype=torch.float32)
    out = multiply(x, experts, x_scale=x_scale, source=source, weight=weight)
    places = integers(-1, ends[-1], 5, 3)
    assert triton_experts.combine(out, places).shape == (5, 72)


@pytest.mark.parametrize(
    ("lengths_q", "lengths_kv", "heads", "window"),
    [
        ([1, 1], [600, 17], (8, 2, 64, 64), 0),
        ([40, 1], [47, 300], (6, 2, 96, 96), 50),
        ([2], [33], (6, 6, 192, 128), 0),
        ([1], [290], (16, 1, 576, 512), 0),
    ],
)
@pytest.mark.parametrize("kv_dtype", [torch.float16, FP8], ids=str)
def test_attention(lengths_q, lengths_kv, heads, window, kv_dtype):
    """Partly filled pages, split keys and padded heads stay inside queries, pages, table and result."""
    num_heads, kv_heads, head_dim, v_head_dim = heads
    table, pages = page_table(lengths_kv, 16)
    plan = AttentionPlan(
        lengths_q,
        lengths_kv,
        group=num_heads // kv_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window=window,
        processors=132,
    )
    attend = triton_attention.AttentionBatch(plan, head_dim=head_dim, v_head_dim=v_head_dim, device=torch.device("cpu"))
    attend._work, attend._merge = fenced(attend._work), fenced(attend._merge)
    scale = fenced(torch.ones(kv_heads))
    cache = triton_attention.PagedCache(
        keys=normal(pages, 16, kv_heads, head_dim, dtype=kv_dtype),
        values=None if kv_heads == 1 else normal(pages, 16, kv_heads, v_head_dim, dtype=kv_dtype),
        table=fenced(table),
        key_scale=scale,
        value_scale=scale,
    )
    out = attend(normal(sum(lengths_q), num_heads, head_dim), cache)
    assert out.shape == (sum(lengths_q), num_heads, v_head_dim)


def test_small_ops():
    """Rows narrower than their block stay inside inputs, weights, scales and results."""
    x, weight, wide = normal(3, 96), normal(96), normal(3, 192)
    triton_rows.rms_norm_quantise(x, weight, torch.int8)
    triton_rows.add_rms_norm_quantise(x, x, weight, torch.int8)
    triton_rows.silu_mul_quantise(wide, FP8)
    triton_rows.quantise(x, FP8)
    triton_rows.quantise(x, FP8, scales=0)
    triton_rows.add_layer_norm_quantise(x, x, weight, weight, FP8)
    triton_rows.rms_norm_gate(normal(3, 5, 24), normal(3, 5, 24), normal(24))
    triton_rows.qk_norm(normal(3, 5, 24), normal(24))
    triton_rows.sigmoid_mul(x, x)
    triton_rows.conv1d(normal(3, 1100), normal(1100, 4))
    triton_rows.kv_write(normal(3, 1100), fenced(torch.zeros((4, 1100), dtype=FP8)), fenced(torch.tensor([3, 0, 2])))
    triton_rows.dequantise(integers(-9, 9, 3, 1100), normal(3, 1), normal(1, 1100))
    triton_rows.rope(normal(3, 5, 32), normal(3, 1, 16), normal(3, 1, 16))
    triton_groups.quantise_group(normal(37, 256))
    assert triton_groups.silu_mul_quantise_group(normal(3, 256))[1].shape == (1, 3)


def test_the_guard_guards():
    """A page behind an operand is really closed: the operand's last byte is one before it."""
    tensor = guarded((5,), torch.int8)
    assert (tensor.data_ptr() + tensor.nbytes) % mmap.PAGESIZE == 0
