"""Our Triton scans against the recurrence in float64; `test_triton_kernels.py` runs this file.

The interpreter multiplies bf16 as raw integers: there operands are fp16 and fp32.
"""

import pytest
import torch

from profiler.kernels import triton_scan
from profiler.kernels.buffers import Buffers
from profiler.kernels.scan import ScanInputs
from profiler.kernels.scan import scan_steps as reference
from profiler.kernels.triton_backend import TritonBackend
from profiler.point import OpShape

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
LIMITS = {torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 2e-1}
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * HAS_GPU

SHAPES = {
    "one group": (2, 4, 1, 16, 32),
    "rows of several programs": (1, 2, 2, 96, 128),
    "sides that are no powers of two": (1, 3, 3, 24, 40),
}


def inputs_of(shape, tokens, dtype):
    """Bounded random operands, and a state to start from."""
    sequences, heads, groups, width, state_dim = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    row = (sequences, tokens)
    keys = torch.nn.functional.normalize(torch.randn((*row, groups, state_dim), generator=generator), dim=-1)
    inputs = ScanInputs(
        values=torch.randn((*row, heads, width), generator=generator).to(dtype).to(DEVICE),
        keys=keys.to(dtype).to(DEVICE),
        queries=torch.randn((*row, groups, state_dim), generator=generator).to(dtype).to(DEVICE),
        log_decay=-torch.rand((*row, heads), generator=generator).to(DEVICE) * 0.3,
        strength=torch.rand((*row, heads), generator=generator).to(DEVICE),
    )
    return inputs, torch.randn((sequences, heads, width, state_dim), generator=generator).to(DEVICE)


def in_float64(inputs):
    return ScanInputs(**{name: getattr(inputs, name).double() for name in inputs.__slots__})


@pytest.mark.parametrize(("tokens", "dtype"), [(1, torch.float16), (3, torch.float32)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", ["mamba2", "gated_delta"])
def test_steps_equal_the_recurrence(variant, shape, tokens, dtype):
    """Results and states of one and of several tokens are those of the recurrence."""
    inputs, state = inputs_of(shape, tokens, dtype)
    expected_state = state.double()
    expected = reference(variant, in_float64(inputs), expected_state)
    out = triton_scan.scan_steps(variant, inputs, state)
    assert torch.allclose(out.double(), expected, atol=LIMITS[dtype], rtol=LIMITS[dtype])
    assert torch.allclose(state.double(), expected_state, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["mamba2", "gated_delta"])
@pytest.mark.parametrize(
    ("shape", "tokens", "chunk"),
    [("one group", 70, 128), ("one group", 37, 16), ("sides that are no powers of two", 20, 256)],
)
def test_chunks_equal_the_recurrence(variant, shape, tokens, chunk, dtype):
    """Whole and broken chunks give the results and the last state that one token after the other gives."""
    inputs, state = inputs_of(shape, tokens, dtype)
    expected_state = state.double()
    expected = reference(variant, in_float64(inputs), expected_state)
    out = triton_scan.scan_chunks(variant, inputs, state, chunk)
    limit = LIMITS[dtype]
    assert torch.allclose(out.double(), expected, atol=limit, rtol=limit)
    assert torch.allclose(state.double(), expected_state, atol=limit, rtol=limit)


@pytest.mark.parametrize("variant", ["mamba2", "gated_delta"])
@pytest.mark.parametrize(("count", "q"), [("num_prefill", 40), ("num_decode", 1)])
def test_backend_runs_both_phases(variant, count, q):
    """A call of two sequences gives a finite row per token and head."""
    columns = dict.fromkeys(("num_prefill", "prefill_q", "num_decode", "decode_q"), 0) | {count: 2}
    columns |= {"prefill_q" if count == "num_prefill" else "decode_q": q, "variant": variant, "chunk": 16}
    columns |= {"num_heads": 4, "num_groups": 2, "head_dim": 16, "state_dim": 32, "state_dtype": "fp32"}
    op = OpShape.of("scan", dtype="fp16", phase="prefill" if count == "num_prefill" else "decode", **columns)
    assert TritonBackend().kernels_for(op) == ("triton",)
    out = TritonBackend().prepare(op, "triton", Buffers(DEVICE, cold_bytes=1 << 14, seed=5)).launch(1)
    assert out.shape == (2, q, 4, 16)
    assert bool(torch.isfinite(out.float()).all())
