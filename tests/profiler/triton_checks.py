"""Our Triton small ops against float64 references; `test_triton_kernels.py` runs this file in a process of its own.

Triton decides when it is first imported whether kernels are interpreted, so a process that has imported it cannot.
The interpreter rounds to FP8 without carrying into the exponent, so there FP8 is tested with values it holds exactly.
"""

import pytest
import torch

from profiler.kernels import torch_rows
from profiler.kernels import triton_groups as groups
from profiler.kernels import triton_rows as rows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def normal(*shape, dtype="float32", seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(getattr(torch, dtype)).to(DEVICE)


def norm64(x, weight):
    x, weight = x.double(), weight.double()
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * weight


def silu64(x):
    gate, up = x.double().chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("width", [64, 96])
def test_norm_equals_its_definition(dtype, tolerance, width):
    """RMS norm is x / rms(x) * w for widths that fill a block and widths that do not."""
    x, weight = normal(5, width, dtype=dtype), normal(width, dtype=dtype, seed=1)
    assert torch.allclose(rows.rms_norm(x, weight).double(), norm64(x, weight), rtol=tolerance, atol=tolerance)


def test_fused_add_norm_returns_the_norm_and_the_new_residual():
    """The fused kernel gives the norm of the sum, and the sum itself."""
    x, residual, weight = normal(3, 96), normal(3, 96, seed=1), normal(96, seed=2)
    out, total = rows.add_rms_norm(x, residual, weight)
    assert torch.allclose(total.double(), x.double() + residual.double(), atol=1e-6)
    assert torch.allclose(out.double(), norm64(x + residual, weight), atol=1e-5)


def test_fused_add_norm_quantise_is_the_norm_of_the_sum_in_steps():
    """The fused kernel gives the norm of the sum within half a step, and the sum itself."""
    x, residual, weight = normal(3, 96), normal(3, 96, seed=1), normal(96, seed=2)
    out, scale, total = rows.add_rms_norm_quantise(x, residual, weight, torch.int8)
    assert torch.allclose(total.double(), x.double() + residual.double(), atol=1e-6)
    error = (out.double() * scale.double() - norm64(x + residual, weight)).abs()
    assert bool((error <= scale.double() * 0.5001).all())


def test_silu_mul_equals_its_definition():
    """SiLU of the first half times the second half."""
    x = normal(4, 160)
    assert torch.allclose(rows.silu_mul(x).double(), silu64(x), atol=1e-6)


@pytest.mark.parametrize("name", ["silu", "gelu", "relu", "relu2", "xielu"])
def test_activations_equal_those_of_torch(name):
    """Alone or times the other half, each activation is torch's; rounded, it is within half a step of it."""
    x, wide = normal(3, 96), normal(3, 192)
    alone, gated = torch_rows.TORCH_ROWS[name](x.double()), torch_rows.TORCH_ROWS[f"{name}_mul"](wide.double())
    assert torch.allclose(rows.TRITON_ROWS[name](x).double(), alone, atol=1e-5)
    assert torch.allclose(rows.TRITON_ROWS[f"{name}_mul"](wide).double(), gated, atol=1e-5)
    for exact, (quantised, scale) in (
        (alone, rows.TRITON_ROWS[f"{name}_quantise"](x, torch.int8, 1)),
        (gated, rows.TRITON_ROWS[f"{name}_mul_quantise"](wide, torch.int8, 1)),
    ):
        error = (quantised.double() * scale.double() - exact).abs()
        assert bool((error <= scale.double() * 0.5001).all())


def test_layer_norms_equal_their_definition():
    """Fused add and layer norm is torch's layer norm of the sum, rounded or not."""
    x, residual, weight, bias = normal(3, 96), normal(3, 96, seed=1), normal(96, seed=2), normal(96, seed=3)
    exact = torch.nn.functional.layer_norm((x + residual).double(), (96,), weight.double(), bias.double(), 1e-5)
    out, total = rows.add_layer_norm(x, residual, weight, bias)
    assert torch.allclose(total, x + residual)
    assert torch.allclose(out.double(), exact, atol=1e-5)
    quantised, scale, _ = rows.add_layer_norm_quantise(x, residual, weight, bias, torch.int8)
    assert bool(((quantised.double() * scale.double() - exact).abs() <= scale.double() * 0.5001).all())


def test_gates_and_norms_of_heads_equal_those_of_torch():
    """Norms of heads, gated norms and sigmoid gates are torch's."""
    heads, gate, weight = normal(3, 5, 24), normal(3, 5, 24, seed=1), normal(24, seed=2)
    wide = [operand.double() for operand in (heads, gate, weight)]
    assert torch.allclose(rows.qk_norm(heads, weight).double(), torch_rows.qk_norm(wide[0], wide[2]), atol=1e-5)
    assert torch.allclose(rows.rms_norm_gate(heads, gate, weight).double(), torch_rows.rms_norm_gate(*wide), atol=1e-5)
    x, scale = normal(3, 96), normal(3, 96, seed=1)
    assert torch.allclose(rows.sigmoid_mul(x, scale), x * torch.sigmoid(scale), atol=1e-6)


def test_a_convolution_and_a_write_equal_those_of_torch():
    """The causal convolution over consecutive tokens is torch's, and so is a write into slots."""
    x, taps = normal(7, 1100), normal(1100, 4, seed=1)
    assert torch.allclose(rows.conv1d(x, taps).double(), torch_rows.conv1d(x.double(), taps.double()), atol=1e-5)
    slots = torch.tensor([5, 9, 0, 3, 7, 1, 11], device=DEVICE)
    caches = [torch.zeros((12, 1100), dtype=torch.bfloat16, device=DEVICE) for _ in range(2)]
    ours, torchs = rows.kv_write(x, caches[0], slots), torch_rows.kv_write(x, caches[1], slots)
    assert torch.allclose(ours, torchs, rtol=2**-7)  # the interpreter cuts off what it should round


def test_a_known_scale_is_used_as_it_is():
    """Static rounding divides by the one scale that is known."""
    x = normal(3, 96) / 100
    quantised, scale = rows.quantise(x, torch.int8, scales=0)
    assert scale.shape == (1,)
    assert bool(((quantised.double() * scale.double() - x.double()).abs() <= float(scale) * 0.5001).all())


def test_rope_rotates_halves():
    """Each head's halves are rotated by the row's angles, which keeps their length."""
    x, angles = normal(3, 4, 32), normal(3, 1, 16, seed=1)
    cos, sin = angles.cos(), angles.sin()
    out = rows.rope(x, cos, sin).double()
    first, second = x.double().chunk(2, dim=-1)
    expected = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    assert torch.allclose(out, expected, atol=1e-6)
    assert torch.allclose(out.norm(dim=-1), x.double().norm(dim=-1), atol=1e-5)


def test_int8_quantisation_is_within_half_a_step():
    """Dequantised rows differ from the source by at most half of the row's scale, alone or fused."""
    x, weight, wide = normal(5, 96), normal(96, seed=1), normal(5, 192, seed=2)
    for (quantised, scale), exact in (
        (rows.quantise(x, torch.int8), x.double()),
        (rows.rms_norm_quantise(x, weight, torch.int8), norm64(x, weight)),
        (rows.silu_mul_quantise(wide, torch.int8), silu64(wide)),
    ):
        error = (quantised.double() * scale.double() - exact).abs()
        assert scale.shape == (5, 1)
        assert bool((error <= scale.double() * 0.5001).all())


def test_dequantisation_applies_both_scales():
    """Integer products become 16-bit values times the row's and the column's scale, across column blocks."""
    product = torch.randint(-9000, 9000, (3, 1500), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    row, column = normal(3, 1).abs(), normal(1, 1500, seed=1).abs()
    expected = product.to(DEVICE).double() * row.double() * column.double()
    out = rows.dequantise(product.to(DEVICE), row, column)
    assert torch.allclose(out.double(), expected, rtol=2**-7)


def test_fp8_quantisation_keeps_what_the_format_holds():
    """Values that e4m3 holds exactly at the row's scale survive the round trip unchanged."""
    held = torch.tensor([448.0, 416, 240, 208, 120, 15, 3.5, 1, 0.25, 0, -448, -30], device=DEVICE)
    x = held * torch.tensor([[2.0**-6], [2.0**-3]], device=DEVICE)
    quantised, scale = rows.quantise(x, torch.float8_e4m3fn)
    assert torch.equal(quantised.float() * scale, x)


def test_groups_are_quantised_each_with_its_own_scale():
    """Values e4m3 holds at their group's scale survive, across row blocks; scales lie group by group."""
    held = torch.tensor([448.0, 416, 240, 208, 120, 15, 3.5, 1, 0.25, 0, -448, -30] * 11)[:128]
    steps = 2.0 ** torch.randint(-8, 3, (40, 3), generator=torch.Generator().manual_seed(0))
    x = (held * steps[..., None]).flatten(1).to(DEVICE)
    quantised, scale = groups.quantise_group(x)
    assert scale.shape == (3, 40)
    assert torch.equal(scale.t().cpu(), steps)
    assert torch.equal(quantised.float() * scale.t().repeat_interleave(128, 1), x)


def test_gated_groups_are_the_groups_of_silu_mul():
    """The fused pass gives what SiLU-mul followed by quantisation gives, but for values at the edge of a step."""
    x = normal(5, 512)
    fused, fused_scale = groups.silu_mul_quantise_group(x)
    quantised, scale = groups.quantise_group(rows.silu_mul(x))
    assert torch.allclose(fused_scale, scale, rtol=1e-6)
    assert float((fused.float() != quantised.float()).double().mean()) < 0.01
