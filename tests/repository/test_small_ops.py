"""The small ops that plans emit are those of the table: bytes, memory and measurements have one source."""

import ast
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from cluster_specs.load import load_cluster
from costmodel.bundled_fits import bundled_fit, devices_with_fit
from costmodel.families.all import manifest_rows
from costmodel.families.elementwise import op_of_kernel
from costmodel.fit_file.artefact import load_artefact
from costmodel.ops.op_types import Elementwise, Op
from costmodel.ops.small_ops import ACTIVATIONS, SMALL_OPS, row_format, small_op
from profiles_db.importers.llmservingsim_bundle import Bundle, Sizes
from profiles_db.importers.llmservingsim_shapes import op_of
from simulator.model.cell import KernelChoices
from simulator.model.cells.cross_attention import CrossAttention
from simulator.model.decoder import ACTIVATION_NAMES
from simulator.model.load_model import bundled_models, load_model
from simulator.model.spec import ModelSpec
from simulator.plan.plan import WEIGHT_DTYPES, Plan

_ROOT = Path(__file__).parents[2]
_TOKENS = 3
# Ops of rows that were measured or asked for elsewhere: they keep the bytes that the row states.
_MADE_OF_ROWS = "profiler/point.py"


def _ops(model: ModelSpec, plan: Plan, kernels: KernelChoices) -> Iterator[Op]:
    for block in model.unique_blocks:
        yield from block.token_ops(plan, _TOKENS, kernels)
        for cell in block.cells:
            if isinstance(cell, CrossAttention):
                yield from cell.item_ops(plan, _TOKENS)
    yield from model.embedding_ops(plan, _TOKENS)
    yield from model.final_norm_ops(plan, _TOKENS, kernels)
    yield from model.head_ops(plan, _TOKENS)
    if model.encoder is not None:
        yield from model.encoder.item_ops(plan, _TOKENS, kernels)


@pytest.fixture(scope="module")
def emitted() -> set[Elementwise]:
    """Every small op of every bundled model over plans, formats and fusions."""
    fusions = [KernelChoices(activation_quantisation="separate"), KernelChoices(activation_quantisation="fused")]
    found: set[Elementwise] = set()
    for name in bundled_models():
        model = load_model(name)
        for tp, weights, cache in product((1, 8), (None, *WEIGHT_DTYPES), (None, "fp8")):
            plan = Plan(tp=tp, weight_dtype=weights, kv_dtype=cache)
            if model.refusal(plan) is None:
                for kernels in fusions:
                    found.update(op for op in _ops(model, plan, kernels) if isinstance(op, Elementwise))
    return found


def test_every_small_op_of_a_plan_is_in_the_table_with_its_bytes(emitted: set[Elementwise]) -> None:
    """What a plan prices is a row the table knows, and the table counts the same bytes for it."""
    assert len({op.op for op in emitted}) > 20
    strange = {op for op in emitted if op.op not in SMALL_OPS}
    assert not strange, "add these to costmodel/ops/small_ops.py"
    for op in emitted:
        row = row_format(op)
        assert row is not None, op
        assert SMALL_OPS[op.op].bytes_per_row(row) == op.bytes_per_row, op


def test_a_manifest_states_the_bytes_that_are_priced(emitted: set[Elementwise]) -> None:
    """A manifest's row of an op has its name, format, width and bytes."""
    cluster = load_cluster("h100-sxm-8")
    for op in emitted:
        (row,) = manifest_rows(op, cluster)
        stated = Elementwise(
            op=str(row["op"]),
            rows=_TOKENS,
            width=int(str(row["width"])),
            bytes_per_row=int(str(row["io_bytes"])) / _TOKENS,
            dtype=str(row["dtype"]),
        )
        assert row_format(stated) == row_format(op), op
        assert stated.bytes_per_row == pytest.approx(op.bytes_per_row, abs=0.5)


def test_every_small_op_of_a_plan_has_a_kernel_that_runs(emitted: set[Elementwise]) -> None:
    """Torch has a kernel for each op of a plan, with operands of that very row; each kind of row is run once here."""
    torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")
    from profiler.kernels.buffers import Buffers
    from profiler.kernels.torch_backend import TorchBackend
    from profiler.kernels.torch_rows import TORCH_ROWS
    from profiler.point import cost_op, small_op_shape

    backend, buffers = TorchBackend(torch.device("cpu")), Buffers(torch.device("cpu"), cold_bytes=1 << 16, seed=0)
    kinds = set()
    for op in sorted(emitted, key=lambda op: op.width):
        shape = small_op_shape(op)
        kernels = backend.kernels_for(shape)
        has_function = op.op.removesuffix("_quantise") in TORCH_ROWS
        assert kernels, f"the table states no kernel of torch for {op.op} in {op.dtype}"
        assert has_function, f"give {op.op} a function in profiler/kernels/torch_rows.py"
        counted = cost_op(shape)
        assert isinstance(counted, Elementwise)
        row = row_format(op)
        assert row is not None
        assert row_format(counted) == row
        kind = (op.op, row.dtype, row.out, min(row.scales, 2))
        if kind not in kinds:
            kinds.add(kind)
            buffers.begin(is_cold=True)
            backend.prepare(shape, kernels[0], buffers).launch(0)
    assert len(kinds) > 50


def test_bundled_fits_are_of_rows_the_table_counts() -> None:
    """The small ops that the bundled fits were measured for state the bytes of the table, and so do their importers."""
    for device in devices_with_fit():
        path = bundled_fit(device)
        assert path is not None
        knots = load_artefact(path).families.get("elementwise")
        for label in knots.labels if knots is not None else ():
            name = op_of_kernel(label.parts[0])
            for width, moved in knots.shape[knots.of_label(label)].tolist() if knots is not None else ():
                rows = [
                    row_format(Elementwise(op=name, rows=1, width=int(width), bytes_per_row=moved, dtype=dtype))
                    for dtype in SMALL_OPS[name].torch
                ]
                assert any(rows), (device, label, width, moved)


@pytest.mark.parametrize("module", ["embedding", "final_layernorm", "rotary_emb", "act_fn", "sampler"])
def test_an_importer_counts_as_the_table_does(module: str) -> None:
    """Modules of LLMServingSim's tables become small ops that move the table's bytes."""
    sizes = Sizes(
        hidden=1024, heads=8, kv_heads=2, head_dim=128, inter=2048, vocab=32000, experts=0, topk=0, expert_inter=0
    )
    bundle = Bundle(
        device="a100-sxm-80gb",
        sizes=sizes,
        ranks=1,
        dtype="bf16",
        kv_dtype="bf16",
        framework=None,
        run_id="run",
        is_older=False,
    )
    found = op_of(module, bundle)
    assert isinstance(found, tuple)
    family, row = found
    assert family == "elementwise"
    counted = small_op(row["op"], rows=1, width=row["width"], dtype="bf16")
    assert row["row_bytes"] == counted.bytes_per_row


def test_every_activation_a_config_can_name_is_in_the_table() -> None:
    """An activation that a config may name has its entries, gated or not, rounded or not."""
    assert set(ACTIVATION_NAMES.values()) <= set(ACTIVATIONS)


def test_no_code_states_bytes_of_a_small_op() -> None:
    """Simulator and profiler take small ops from ``small_op``: none of their code builds one with bytes of its own."""
    built = [
        f"{path.relative_to(_ROOT)}:{node.lineno}"
        for room in ("simulator", "profiler")
        for path in sorted((_ROOT / room).rglob("*.py"))
        if str(path.relative_to(_ROOT)) != _MADE_OF_ROWS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Elementwise"
    ]
    assert not built, "call costmodel.ops.small_ops.small_op instead"
