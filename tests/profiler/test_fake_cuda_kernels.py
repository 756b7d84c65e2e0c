"""Torch's CUDA kernels called on fake CUDA tensors: no GPU, but torch's own checks of shapes, layouts and types.

A fake tensor has a device and no data; torch answers every operator with the shape of the result and refuses what the
real kernel refuses. What it cannot tell is whether a kernel runs on a given GPU, and what it computes.
"""

from typing import ClassVar

import pytest

torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402 - torch first
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from profiler.collectives.symmetric_memory import symmetric_call  # noqa: E402
from profiler.kernels import gemm as gemm_kernels  # noqa: E402
from profiler.kernels.attention import attention_kernels, flash_launch, flash_parameters  # noqa: E402
from profiler.kernels.buffers import TORCH_DTYPES, Buffers  # noqa: E402
from profiler.kernels.cudnn_backend import CUDNN_ATTENTION, CudnnBackend  # noqa: E402
from profiler.kernels.gemm import prepare_gemm  # noqa: E402
from profiler.kernels.moe import torch_grouped  # noqa: E402
from profiler.kernels.torch_backend import TorchBackend  # noqa: E402
from profiler.planning.grid import attention_shape  # noqa: E402
from profiler.point import OpShape  # noqa: E402

CUDA = torch.device("cuda")


class UndrawnBuffers(Buffers):
    """Operands on a device that is not here: of their shape and type, without values."""

    def __init__(self, device):
        super().__init__(torch.device("cpu"), cold_bytes=1 << 16, seed=0)
        self.device = device

    def random(self, shape, dtype):
        """Make an operand."""
        return torch.empty(shape, device=self.device, dtype=TORCH_DTYPES[dtype] if isinstance(dtype, str) else dtype)

    def rotating(self, shape, dtype, **_):
        """Make two of them: slices of a pool ask for a real device."""
        return [self.random(shape, dtype) for _ in range(2)]


@pytest.fixture
def buffers(monkeypatch):
    """Return undrawn operands of a Hopper GPU without Triton, whose launches need addresses."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (9, 0))
    monkeypatch.setattr(gemm_kernels, "find_spec", lambda _: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield UndrawnBuffers(CUDA)


def gemm(dtype, scaling, m, *, quantise=False):
    return OpShape.of("gemm", dtype=dtype, m=m, n=256, k=512, scaling=scaling, quantise=quantise)


@pytest.mark.parametrize("quantise", [False, True])
@pytest.mark.parametrize("m", [1, 17, 65])
@pytest.mark.parametrize(
    ("dtype", "scaling"),
    [("bf16", "none"), ("fp8", "row"), ("fp8", "tensor"), ("w8a8", "row"), ("w4a16", "group128")],
)
def test_gemm_operands_have_the_layouts_cuda_asks_for(buffers, dtype, scaling, m, quantise):
    """Every format passes torch's checks of scales, strides and packing, and gives 16-bit [at least m, n]."""
    op = gemm(dtype, scaling, m, quantise=quantise)
    assert TorchBackend(CUDA).kernels_for(op)
    out = prepare_gemm(op, buffers).launch(1)
    assert out.device.type == "cuda"
    assert out.dtype == torch.bfloat16
    assert (out.shape[0] >= m, out.shape[1]) == (True, 256)


def test_torch_refuses_scales_of_another_layout(buffers):
    """The checks these tests lean on are there: row scales in a column's place are refused."""
    x = buffers.random((32, 64), torch.float8_e4m3fn)
    scale = torch.ones((1, 32), device=CUDA)
    with pytest.raises(RuntimeError, match="scal"):
        torch._scaled_mm(x, x.t(), scale, scale, out_dtype=torch.bfloat16)


BATCHES = {
    "decode": {"decode": (3, 300, 400)},
    "chunk": {"prefill": (2, 40, 100)},
    "mixed window": {"prefill": (1, 40, 100), "decode": (2, 70, 70), "window": 64},
}


@pytest.mark.parametrize("is_paged", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_flash_attention_takes_our_call(batch, is_paged):
    """Torch's operator takes every argument we give, by the names it has; the result has a row per query."""
    buffers = UndrawnBuffers(torch.device("meta"))  # moving the page table to CUDA asks for a real device
    if is_paged and "block_table" not in flash_parameters():
        pytest.skip("this torch has no paged attention")
    op = attention_shape("bf16", (8, 2, 64), **BATCHES[batch])
    assert attention_kernels(op, CUDA) == ("torch.flash_attention",)
    call = flash_launch(op, buffers, is_paged=is_paged)
    assert call.launch(1).shape == call.queries.shape


@pytest.mark.parametrize("heads", [(8, 2, 64), (16, 16, 128)])
def test_cudnn_attention_takes_our_call(heads):
    """Torch's operator for whole prompts takes every argument we give, query heads in groups; a row per query."""
    op = attention_shape("bf16", heads, prefill=(2, 100, 100))
    backend = CudnnBackend()
    assert backend.kernels_for(op) == ("torch.cudnn_attention",)
    out = backend.prepare(op, CUDNN_ATTENTION, UndrawnBuffers(torch.device("meta"))).launch(1)
    assert out.shape == (2, heads[0], 100, heads[2])


@pytest.mark.parametrize(
    "op",
    [
        attention_shape("bf16", (8, 2, 64), prefill=(1, 100, 200)),
        attention_shape("bf16", (8, 2, 64), decode=(4, 100, 100)),
        attention_shape("bf16", (8, 2, 64), prefill=(1, 100, 100), decode=(4, 100, 100)),
        attention_shape("bf16", (8, 2, 64), prefill=(1, 100, 100), window=64),
        attention_shape("fp32", (8, 2, 64), prefill=(1, 100, 100)),
    ],
    ids=str,
)
def test_cudnn_runs_whole_prompts_alone(op):
    """Its causal mask begins at the first key: chunks, decodes, windows and other formats are other kernels'."""
    assert CudnnBackend().kernels_for(op) == ()


def test_windowed_decode_is_our_own_kernels():
    """Torch's flash attention would neither pack query heads nor split keys there; with prompts in the call it runs."""
    pytest.importorskip("triton")
    from profiler.kernels.triton_backend import TritonBackend

    decode = attention_shape("bf16", (8, 2, 64), decode=(4, 100, 100), window=64)
    mixed = attention_shape("bf16", (8, 2, 64), prefill=(1, 40, 100), decode=(4, 100, 100), window=64)
    assert (attention_kernels(decode, CUDA), TritonBackend().kernels_for(decode)) == ((), ("triton",))
    assert attention_kernels(mixed, CUDA) == ("torch.flash_attention",)


@pytest.mark.parametrize(
    ("message_bytes", "ranks", "name"),
    [
        (1 << 20, 2, "one_shot_all_reduce"),
        (1 << 14, 4, "one_shot_all_reduce"),
        (1 << 20, 4, "two_shot_all_reduce_"),
        (1 << 18, 8, "two_shot_all_reduce_"),
    ],
)
def test_symmetric_memory_takes_our_call(message_bytes, ranks, name):
    """Torch has the operator of the kernel chosen by ranks and bytes, which is asked for a sum of our operand."""

    class Asked(TorchDispatchMode):
        calls: ClassVar = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "symm_mem":
                self.calls.append((func._schema.name, args))
                return args[0]
            return func(*args, **(kwargs or {}))

    operand = torch.zeros(message_bytes // 2, dtype=torch.bfloat16)
    prepared = symmetric_call(operand, "group", ranks)
    with Asked() as asked:
        prepared.launch()
    ((called, args),) = asked.calls
    asked.calls.clear()
    assert (called, args[1:]) == (f"symm_mem::{name}", ("sum", "group"))
    assert args[0] is operand


def test_grouped_gemm_takes_our_layout(buffers):
    """Weights [experts, n, k] passed transposed satisfy the strides torch asks for."""
    multiply = torch_grouped(torch.zeros(3, dtype=torch.int32, device=CUDA))
    x, w = buffers.random((24, 32), "bf16"), buffers.random((3, 16, 32), "bf16")
    assert multiply(x, w).shape == (24, 16)


@pytest.mark.parametrize(
    "op",
    [
        gemm("w8a16", "row", 8),
        attention_shape("bf16", (128, 1, 576), decode=(1, 1024, 1024)),
        attention_shape("fp16", (8, 8, 512), prefill=(1, 64, 64)),
    ],
    ids=str,
)
def test_what_no_engine_would_run_is_not_measured_on_a_gpu(op):
    """Torch's fallbacks (one thread per element, scores written to memory) are no price of these ops."""
    assert TorchBackend(CUDA).kernels_for(op) == ()
    assert TorchBackend(torch.device("cpu")).kernels_for(op)
