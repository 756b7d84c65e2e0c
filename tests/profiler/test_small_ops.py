"""Every small op of the table has a kernel that runs, and each computes what its name says."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")

from costmodel.ops.small_ops import ROUNDED_DTYPES, SMALL_OPS, small_op  # noqa: E402 - torch first
from profiler.backend import Unsupported  # noqa: E402
from profiler.kernels.buffers import Buffers  # noqa: E402
from profiler.kernels.quantise import fp4_group  # noqa: E402
from profiler.kernels.row_operands import made_of  # noqa: E402
from profiler.kernels.torch_backend import TorchBackend  # noqa: E402
from profiler.kernels.torch_rows import TORCH_ROWS, conv1d, kv_write, rms_norm_gate, sigmoid_mul, topk  # noqa: E402
from profiler.planning.grid import general_grid  # noqa: E402
from profiler.point import OpShape, cost_op, small_op_shape  # noqa: E402

CPU = torch.device("cpu")


def buffers():
    return Buffers(CPU, cold_bytes=1 << 14, seed=3)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shapes(name):
    """Every kind of row of an op that a measurement can be about, three rows of 256."""
    entry = SMALL_OPS[name]
    for dtype in sorted(entry.torch):
        rows = list(entry.formats(dtype, 256))
        for row in rows if len(rows) < 10 else (rows[0], rows[7]):
            op = small_op(name, rows=3, width=256, dtype=row.dtype, out=row.out, scales=row.scales, chosen=row.chosen)
            yield small_op_shape(op), row


@pytest.mark.parametrize("name", SMALL_OPS)
def test_every_op_of_the_table_runs_in_every_format_it_states(name):
    """Torch runs the op in each of its formats, on operands of that row, and counts the bytes the table counts."""
    backend = TorchBackend(CPU)
    for shape, row in shapes(name):
        assert backend.kernels_for(shape) == ("torch.eager_cpu",)
        found = made_of(shape)
        assert (found.out_bytes, found.scales, found.chosen) == (row.out_bytes, row.scales, row.chosen)
        prepared = backend.prepare(shape, "torch.eager_cpu", buffers())
        results = [result for i in (0, 1) for result in _tensors(prepared.launch(i))]
        assert results[0].shape[0] == (4 if name == "kv_write" else 1) * 3
        assert float(cost_op(shape).io_bytes()) == pytest.approx(3 * SMALL_OPS[name].bytes_per_row(row))


def _tensors(result):
    return result if isinstance(result, tuple) else (result,)


def test_every_function_is_an_op_of_the_table():
    """No function of torch or of ours stands outside the table, and each op that states a kernel of ours has one."""
    bases = {name.removesuffix("_quantise") for name, entry in SMALL_OPS.items() if entry.torch}
    assert sorted(bases - set(TORCH_ROWS)) == [], "give these a function in profiler/kernels/torch_rows.py"
    assert sorted(set(TORCH_ROWS) - bases) == [], "add these to costmodel/ops/small_ops.py"
    triton_rows = pytest.importorskip("profiler.kernels.triton_rows", reason="Triton is not installed")
    assert set(triton_rows.TRITON_ROWS) == {name for name, entry in SMALL_OPS.items() if entry.triton}


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_general_grid_measures_rows_that_plans_ask_for(kind):
    """Every small op of the grid is a row of the table, of the bytes per logit or element that a plan's op moves."""
    found = general_grid(kind, families=["elementwise"], dtypes=["bf16", "fp32", "fp8", "w8a8"])
    for shape in found:
        row = made_of(shape)
        op = small_op(shape.shape["op"], rows=1, width=row.width, dtype=row.dtype, out=row.out, scales=row.scales)
        assert shape.shape["io_bytes"] == shape.shape["rows"] * op.bytes_per_row
    assert {shape.shape["op"] for shape in found} > {"sampler", "rope", "quantise"}


def test_bytes_the_table_does_not_count_are_refused_with_what_to_do():
    """A row that states other bytes than its op moves is no measurement of it."""
    stale = OpShape.of("elementwise", dtype="bf16", op="sampler", rows=2, width=256, io_bytes=2 * (4 * 256 + 8))
    with pytest.raises(Unsupported, match="no row of sampler of 256 bf16 elements moves 1032 bytes") as refused:
        TorchBackend(CPU).prepare(stale, "torch.eager_cpu", buffers())
    assert "apex shapes" in str(refused.value.hint)


def test_operands_are_those_of_the_row():
    """An FP8 cache holds FP8, a cast widens, chosen experts are as many as the bytes say."""
    backend = TorchBackend(CPU)

    def launched(name, **made_of):
        op = small_op_shape(small_op(name, rows=3, width=64, dtype="bf16", **made_of))
        return backend.prepare(op, "torch.eager_cpu", buffers()).launch(0)

    assert launched("kv_write", out="fp8").dtype == torch.uint8
    assert launched("kv_write").dtype == torch.bfloat16
    assert launched("cast", out="fp32").dtype == torch.float32
    weights, numbers = launched("topk", chosen=6)
    assert weights.shape == numbers.shape == (3, 6)
    assert launched("quantise", out="fp8", scales=1)[1].shape == (3, 1)
    assert launched("quantise", out="fp8")[1].shape == (1,)


def test_a_convolution_is_causal_and_takes_each_column_alone():
    """Every column is the weighted sum of its last four tokens, after SiLU; what comes later changes nothing."""
    x, taps = normal(6, 3), normal(3, 4, seed=1)
    expected = torch.zeros(6, 3)
    for token in range(6):
        for tap in range(4):
            if token + tap - 3 >= 0:
                expected[token] += x[token + tap - 3] * taps[:, tap]
    assert torch.allclose(conv1d(x, taps), torch.nn.functional.silu(expected), atol=1e-5)
    assert torch.allclose(conv1d(x[:3], taps), conv1d(x, taps)[:3], atol=1e-6)


def test_gates_scale_what_they_gate():
    """A gated norm has a root mean square of its gate's SiLU per head; a sigmoid gate of zero halves."""
    heads, gate = normal(2, 3, 16), torch.full((2, 3, 16), 1.0)
    out = rms_norm_gate(heads, gate, torch.ones(16))
    silu = 1 / (1 + math.exp(-1))
    assert torch.allclose(out.square().mean(-1).sqrt(), torch.full((2, 3), silu), rtol=1e-3)
    assert torch.equal(sigmoid_mul(heads, torch.zeros_like(heads)), heads / 2)


def test_chosen_experts_are_the_best_and_a_write_lands_in_its_slot():
    """Top-k gives softmax weights in falling order; a written row is found at its slot."""
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    weights, numbers = topk(scores, 2)
    assert numbers.tolist() == [[1, 3]]
    assert torch.allclose(weights, torch.softmax(scores, -1)[:, [1, 3]])
    cache = torch.zeros(8, 4)
    kv_write(torch.ones(2, 4), cache, torch.tensor([5, 2]))
    assert cache.sum(1).tolist() == [0, 0, 4, 0, 0, 4, 0, 0]


def test_nvfp4_holds_what_it_can_hold():
    """Magnitudes that e2m1 has at the group's scale survive: two codes a byte, a scale per 16 columns."""
    held = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.5, -1, -1.5, -2, -3, -4, -6, 6])
    packed, scale = fp4_group(torch.cat((held, 2 * held))[None])
    assert packed.shape == (1, 16)
    assert scale.shape == (1, 2)
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten()
    magnitudes = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])[(codes & 7).long()]
    values = torch.where(codes >= 8, -magnitudes, magnitudes)
    assert torch.equal(values, torch.cat((held, held)))


def test_formats_are_those_the_table_names():
    """Every format that a rounding may write has a kernel in torch."""
    assert SMALL_OPS["quantise"].torch == set(ROUNDED_DTYPES.values())
