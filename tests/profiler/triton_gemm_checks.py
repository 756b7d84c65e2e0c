"""Our Triton GEMMs in every format against float64 references; `test_triton_kernels.py` runs this file.

The interpreter multiplies bf16 as raw integers: there 16-bit operands are fp16, a GPU takes both.
"""

import pytest
import torch

from profiler.kernels.buffers import Buffers
from profiler.kernels.moe import prepare_moe as prepare_torch_moe
from profiler.kernels.routing import route
from profiler.kernels.triton_backend import TritonBackend
from profiler.kernels.triton_experts import ExpertWeights, GroupedGemm, combine
from profiler.kernels.triton_groups import quantise_group, silu_mul_quantise_group
from profiler.kernels.triton_linear import linear, split_k
from profiler.kernels.triton_rows import quantise, silu_mul_quantise
from profiler.kernels.triton_tiles import (
    BF16_128,
    BF16_E2M1_FACTOR,
    BF16_E2M1_SHIFT,
    FP16_1024,
    FP16_E2M1_FACTOR,
    FP16_E2M1_SHIFT,
    pack,
    tile_height,
)
from profiler.point import OpShape

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
HALVES = [torch.float16] + [torch.bfloat16] * HAS_GPU
FP8 = torch.float8_e4m3fn
EXPERT_FORMATS = ["plain", "fp8", "w8a8", "block", "int4", "mxfp4"]
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)


class Draw:
    """Random operands of one seed, each with the float64 matrix it stands for."""

    def __init__(self, half=torch.float16):
        self.generator = torch.Generator().manual_seed(0)
        self.half = half

    def normal(self, *shape, dtype=torch.float32):
        """Draw from a standard normal."""
        return torch.randn(shape, generator=self.generator).to(dtype).to(DEVICE)

    def scales(self, *shape, dtype=torch.float32):
        """Positive scales around one."""
        return (torch.rand(shape, generator=self.generator) + 0.5).to(dtype).to(DEVICE)

    def integers(self, low, high, *shape):
        """Uniform integers."""
        return torch.randint(low, high, shape, generator=self.generator).to(DEVICE)

    def activations(self, kind, m, k):
        """Activations, their scales as the kernels read them, and what they stand for."""
        if kind == "block":
            x, scale = self.normal(m, k, dtype=FP8), self.scales(k // 128, m)
            return x, scale, x.double() * scale.double().t().repeat_interleave(128, 1)
        if kind in {"fp8", "w8a8"}:
            x = self.normal(m, k, dtype=FP8) if kind == "fp8" else self.integers(-127, 128, m, k).to(torch.int8)
            scale = self.scales(m)
            return x, scale, x.double() * scale.double()[:, None]
        x = self.normal(m, k, dtype=self.half)
        return x, None, x.double()

    def weights(self, kind, *shape):
        """Weights [..., n, k], their scales as the kernels read them, and what they stand for."""
        *stack, n, k = shape
        if kind == "block":
            w, scale = self.normal(*shape, dtype=FP8), self.scales(*stack, k // 128, -(-n // 128))
            spread = scale.double().mT.repeat_interleave(128, -2)[..., :n, :].repeat_interleave(128, -1)
            return w, scale, w.double() * spread
        if kind == "int4":
            w, scale = self.integers(-8, 8, *shape), self.scales(*stack, k // 128, n, dtype=self.half)
            return pack(w + 8, kind), scale, w * scale.double().mT.repeat_interleave(128, -1)
        if kind == "mxfp4":
            codes, exponents = self.integers(0, 16, *shape), self.integers(120, 131, *stack, k // 32, n)
            exact = torch.cat((E2M1, -E2M1)).to(DEVICE)[codes]
            spread = (2.0 ** (exponents.double() - 127)).mT.repeat_interleave(32, -1)
            return pack(codes, kind), exponents.to(torch.uint8), exact * spread
        if kind == "plain":
            w = self.normal(*shape, dtype=self.half)
            return w, None, w.double()
        w = self.normal(*shape, dtype=FP8) if kind == "fp8" else self.integers(-127, 128, *shape).to(torch.int8)
        scale = self.scales(*stack, n)
        return w, scale, w.double() * scale.double()[..., None]


def assert_close(out, exact):
    """Equal within one step of the result's format (the interpreter cuts where a GPU rounds)."""
    step = 2**-7 if out.dtype == torch.bfloat16 else 2**-10
    error = (out.double() - exact).abs() / exact.abs().clamp_min(exact.abs().mean())
    assert float(error.max()) <= 1.01 * step


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kind", ["block", "int8", "int4", "mxfp4", "w8a8"])
@pytest.mark.parametrize(("m", "n", "k"), [(5, 192, 384), (70, 200, 256), (130, 66, 1024)])
def test_linear_layer_multiplies_by_the_dequantised_weights(half, kind, m, n, k):
    """Every format, tile height, ragged edge and split of k gives the product of what its operands stand for."""
    draw = Draw(half)
    x, x_scale, x_exact = draw.activations(kind, m, k)
    w, w_scale, w_exact = draw.weights(kind, n, k)
    called = "plain" if kind == "w8a8" else kind
    assert_close(linear(x, w, w_scale, kind=called, x_scale=x_scale), x_exact @ w_exact.T)


@pytest.mark.parametrize(
    ("dtype", "bits", "base"), [(torch.float16, FP16_1024, 1024), (torch.bfloat16, BF16_128, 128)], ids=str
)
def test_nibbles_fit_the_mantissa_of_both_halves(dtype, bits, base):
    """Or-ing a nibble into the constant adds exactly its value, also in bf16, which the interpreter cannot multiply."""
    nibbles = torch.arange(16, dtype=torch.int16)
    assert torch.equal((nibbles | bits.value).view(dtype).double(), base + nibbles.double())


@pytest.mark.parametrize(
    ("dtype", "shift", "factor"),
    [(torch.float16, FP16_E2M1_SHIFT, FP16_E2M1_FACTOR), (torch.bfloat16, BF16_E2M1_SHIFT, BF16_E2M1_FACTOR)],
    ids=str,
)
def test_e2m1_is_a_tiny_float_of_both_halves(dtype, shift, factor):
    """Shifted codes times the factor are exactly the values of e2m1, its subnormal too, also in bf16."""
    codes = torch.arange(8, dtype=torch.int16)
    assert torch.equal((codes << shift.value).view(dtype).double() * factor.value, E2M1)


def test_weight_only_int8_needs_no_even_k():
    """A k that fills no whole turn of the loop is masked, not read beyond."""
    draw = Draw()
    x, _, x_exact = draw.activations("int8", 9, 200)
    w, w_scale, w_exact = draw.weights("int8", 70, 200)
    assert_close(linear(x, w, w_scale, kind="int8"), x_exact @ w_exact.T)


@pytest.mark.parametrize(
    ("tiles", "k", "splits"), [(128, 8192, 1), (64, 8192, 2), (10, 8192, 13), (1, 1024, 2), (1, 256, 1), (500, 8192, 1)]
)
def test_k_is_split_until_every_processor_has_a_tile(tiles, k, splits):
    """Splits cover k without an empty one, keep four turns each, and stop at one program per processor."""
    count, length = split_k(tiles, k, 128, 132)
    assert count == splits
    assert (count - 1) * length < k <= count * length


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        *((kind, ends) for kind in EXPERT_FORMATS for ends in ([3, 3, 30, 37], [70, 71, 71, 150])),
        *(("plain", ends) for ends in ([0, 0, 0, 16], [40, 41, 42, 90], [150, 300])),
    ],
)
def test_grouped_gemm_gathers_multiplies_and_weighs(kind, ends):
    """Rows between two offsets are their tokens times that expert's weights, with empty experts and ragged tiles."""
    draw, n, k = Draw(), 200, 256
    x, x_scale, x_exact = draw.activations(kind, 7, k)
    values, scales, w_exact = draw.weights(kind, len(ends), n, k)
    source = draw.integers(0, 7, ends[-1]).to(torch.int32)
    weight = draw.scales(ends[-1])
    weights = ExpertWeights(kind=kind if kind in {"block", "int4", "mxfp4"} else "plain", values=values, scales=scales)
    multiply = GroupedGemm(torch.tensor(ends, dtype=torch.int32, device=DEVICE))
    out = multiply(x, weights, x_scale=x_scale, source=source, weight=weight)
    expert = torch.bucketize(torch.arange(ends[-1]), torch.tensor(ends), right=True).to(DEVICE)
    exact = torch.einsum("rk,rnk->rn", x_exact[source.long()], w_exact[expert]) * weight.double()[:, None]
    assert_close(out, exact)


def test_grouped_gemm_of_no_rows_is_empty():
    """A rank without routed tokens gets an empty result, and tokens without experts here get zeros."""
    multiply = GroupedGemm(torch.zeros(4, dtype=torch.int32, device=DEVICE))
    values = torch.ones((4, 16, 32), dtype=torch.float16, device=DEVICE)
    out = multiply(values.new_ones((3, 32)), ExpertWeights(kind="plain", values=values))
    assert out.shape == (0, 16)
    places = torch.full((3, 2), -1, dtype=torch.int32, device=DEVICE)
    assert torch.equal(combine(out, places), values.new_zeros((3, 16)))


def test_tile_height_follows_the_rows_of_an_expert():
    """Tiles are the smallest power of two that holds an expert's mean rows, between 16 and 128."""
    assert [tile_height(mean) for mean in (0.0, 1, 16, 17, 64.5, 1000)] == [16, 16, 16, 32, 128, 128]


def moe(dtype, ep):
    sizes = {"hidden": 128, "inter": 256, "num_experts": 4, "topk": 2, "tp": 1, "ep": ep}
    return OpShape.of("moe", dtype=dtype, num_tokens=9, routing="balanced", **sizes)


def launched(op, seed=5):
    """Return the result of our backend, and buffers that draw as it drew."""
    assert TritonBackend().kernels_for(op) == ("triton",)
    out = TritonBackend().prepare(op, "triton", Buffers(DEVICE, cold_bytes=1 << 14, seed=seed)).launch(0)
    return out, Buffers(DEVICE, cold_bytes=1 << 14, seed=seed)


@pytest.mark.parametrize("ep", [1, 2])
def test_expert_layer_equals_torch(ep):
    """Our layer and torch's, built from the same draws, agree on all experts and on a shard of them."""
    out, buffers = launched(moe("fp16", ep))
    kernel = "torch.expert_loop"
    expected = prepare_torch_moe(moe("fp16", ep), kernel, buffers).launch(0)
    assert torch.allclose(out.double(), expected.double(), rtol=1e-2, atol=1e-2 * float(expected.double().std()))


@pytest.mark.parametrize(("dtype", "ep"), [("fp8", 2), ("w8a8", 1), ("fp8_block", 2)])
def test_quantised_expert_layer_is_the_sum_of_its_local_experts(dtype, ep):
    """A token's result is the weighted sum over its local experts, each fed with what quantisation kept."""
    op = moe(dtype, ep)
    out, buffers = launched(op)
    local, kind = 4 // ep, "int8" if dtype == "w8a8" else "fp8"
    tokens = buffers.random((9, 128), "bf16")
    gate_up, down = (buffers.rotating((local, n, k), kind)[0].double() * 0.01 for n, k in ((512, 128), (128, 256)))
    x = dequantised(dtype, tokens, silu_mul=False)
    expected = torch.zeros_like(x)
    ids = route(9, 4, 2, "balanced", seed=0, device=torch.device("cpu"), ep=ep)
    for token, experts in enumerate(ids.tolist()):
        for expert in (e for e in experts if e < local):
            inner = (gate_up[expert] @ x[token]).to(torch.bfloat16)
            expected[token] += down[expert] @ dequantised(dtype, inner[None], silu_mul=True)[0] / 2
    # As much as inner values at the edge of one of e4m3's steps of an eighth, falling on its other side, can cause.
    assert float((out.double() - expected).norm() / expected.norm()) < 0.06


def dequantised(dtype, x, *, silu_mul):
    """Return what our quantisation, tested by itself in triton_checks.py, leaves of x."""
    if dtype == "fp8_block":
        values, scale = silu_mul_quantise_group(x) if silu_mul else quantise_group(x)
        return values.double() * scale.double().t().repeat_interleave(128, 1)
    one_byte = torch.int8 if dtype == "w8a8" else FP8
    values, scale = silu_mul_quantise(x, one_byte) if silu_mul else quantise(x, one_byte)
    return values.double() * scale.double()


@pytest.mark.parametrize("is_quantising", [False, True])
def test_block_fp8_layer_quantises_its_activations(is_quantising):
    """The prepared layer is the product of what both quantisations kept, whether or not it is part of the call."""
    op = OpShape.of("gemm", dtype="fp8_block", m=6, n=256, k=384, scaling="group128", quantise=is_quantising)
    out, buffers = launched(op)
    x = dequantised("fp8_block", buffers.random((6, 384), "bf16"), silu_mul=False)
    assert_close(out, x @ (buffers.rotating((256, 384), "fp8")[0].double() * 0.01).T)
