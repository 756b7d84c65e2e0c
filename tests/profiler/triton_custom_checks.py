"""A person's own Triton kernel, held against its reference as any other; `test_triton_kernels.py` runs this file."""

import pytest
import torch

from cluster_specs.errors import UserError
from profiler.kernels.buffers import Buffers
from profiler.kernels.custom_backend import CustomBackend
from profiler.kernels.custom_check import check_kernels
from profiler.point import OpShape

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

DECLARED = """
from costmodel.extension.custom_op import Counts, CustomOp

GATE = CustomOp(
    name="lab.gate",
    sizes=("width",),
    amount_of="tokens",
    counts=lambda dtype, *, width: Counts(unit_flop=width, unit_bytes=12 * width),
    kernel="{name}:gated",
    reference="{name}:plain",
    operands="{name}:operands",
)
"""
KERNELS = """
import torch
import triton
import triton.language as tl

def operands(amount, dtype, device, *, width):
    return {name: torch.randn(amount, width, device=device).to(dtype) for name in ("x", "gate")}

def plain(x, gate):
    return x * gate

@triton.jit
def _gate(x_ptr, gate_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    x, gate = tl.load(x_ptr + at, inside), tl.load(gate_ptr + at, inside)
    tl.store(out_ptr + at, x * gate, inside)

def gated(x, gate):
    out = torch.empty_like(x)
    _gate[(triton.cdiv(x.numel(), 128),)](x, gate, out, x.numel(), BLOCK=128)
    return out
"""


@pytest.fixture
def backend_of(tmp_path):
    """Write a kernel file under a name of its own, and load the extension that names it."""

    def load(name, kernels):
        (tmp_path / f"{name}.py").write_text(kernels, encoding="utf-8")
        declared = tmp_path / f"declared_{name}.py"
        declared.write_text(DECLARED.format(name=name), encoding="utf-8")
        return CustomBackend.load([str(declared)])

    return load


def shape(amount):
    """Return a call over so many tokens."""
    counts = {"unit_flop": 96.0, "call_bytes": 0.0, "unit_bytes": 1152.0}
    return OpShape.of(
        "custom", dtype="fp32", op="lab.gate", sizes="width=96", amount_of="tokens", amount=amount, **counts
    )


def test_a_triton_kernel_is_checked_and_runs(backend_of):
    """One that agrees with its reference is launched; one that skips the last block is refused with the size."""
    backend = backend_of("sound_gate", KERNELS)
    check_kernels([shape(1), shape(33)], backend, DEVICE, seed=0)
    buffers = Buffers(DEVICE, cold_bytes=1 << 16, seed=0)
    buffers.begin(is_cold=False)
    result = backend.prepare(shape(33), "sound_gate:gated", buffers).launch(0)
    assert result.shape == (33, 96)
    short = KERNELS.replace("triton.cdiv(x.numel(), 128)", "max(x.numel() // 128, 1)")
    short = short.replace("torch.empty_like(x)", "torch.zeros_like(x)")
    with pytest.raises(UserError, match=r"lab\.gate with width=96, 33 tokens in fp32: its result differs"):
        check_kernels([shape(1), shape(33)], backend_of("short_gate", short), DEVICE, seed=0)
