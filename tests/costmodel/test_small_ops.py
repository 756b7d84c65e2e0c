"""The table of small ops counts as one does by hand, and a row's bytes say what it is made of."""

import numpy as np
import pytest

from costmodel.ops.op_types import Elementwise
from costmodel.ops.small_ops import SMALL_OPS, RowFormat, row_format, small_op


@pytest.mark.parametrize(
    ("name", "made_of", "row_bytes"),
    [
        ("rmsnorm", {}, 2 * 256 * 2),
        ("add_rmsnorm", {}, 4 * 256 * 2),
        ("add_rmsnorm_quantise", {"out": "fp8", "scales": 1}, 3 * 256 * 2 + 256 + 4),
        ("silu_mul", {}, 3 * 256 * 2),
        ("silu_mul_quantise", {"out": "fp8", "scales": 2}, 2 * 256 * 2 + 256 + 8),
        ("relu2", {}, 2 * 256 * 2),
        ("quantise", {"out": "int8", "scales": 1}, 256 * 2 + 256 + 4),
        ("quantise", {"out": "nvfp4", "scales": 1}, 256 * 2 + 256 // 2 + 256 // 16 + 4),
        ("quantise", {"out": "fp8"}, 256 * 2 + 256),
        ("square_sum", {}, 256 * 2 + 4),
        ("kv_write", {}, 2 * 256 * 2),
        ("kv_write", {"out": "fp8"}, 256 * 2 + 256),
        ("cast", {"out": "fp32"}, 256 * 2 + 256 * 4),
        ("topk", {"chosen": 8}, 256 * 4 + 8 * (4 + 4)),
        ("sampler", {}, 256 * (2 + 4 + 4)),
    ],
)
def test_a_row_moves_what_is_read_and_written(name: str, made_of: dict[str, int | str], row_bytes: float) -> None:
    """A row of 256 16-bit elements moves the bytes counted here by hand, and many rows as often as many."""
    op = small_op(name, rows=np.arange(3), width=256, dtype="bf16", **made_of)  # type: ignore[arg-type]
    assert op.io_bytes().tolist() == [0.0, row_bytes, 2 * row_bytes]


@pytest.mark.parametrize("name", SMALL_OPS)
@pytest.mark.parametrize("width", [1, 96, 4096])
def test_the_bytes_of_a_row_say_what_it_is_made_of(name: str, width: int) -> None:
    """Every row the table can count is found again from its name, format, width and bytes alone."""
    entry = SMALL_OPS[name]
    for dtype in sorted(entry.torch):
        rows = list(entry.formats(dtype, width))
        assert rows
        for row in rows[:40]:
            op = small_op(name, rows=7, width=width, dtype=row.dtype, out=row.out, scales=row.scales, chosen=row.chosen)
            stated = Elementwise(op=name, rows=7, width=width, bytes_per_row=round(op.bytes_per_row), dtype=op.dtype)
            assert op.dtype == dtype
            found = row_format(stated)
            assert found is not None
            assert entry.bytes_per_row(found) == pytest.approx(op.bytes_per_row, abs=0.5)


def test_bytes_that_no_row_moves_have_no_format() -> None:
    """A norm that states three passes, a format no op rounds to and a name the table does not hold are no rows."""
    assert row_format(Elementwise(op="rmsnorm", rows=1, width=64, bytes_per_row=3 * 64 * 2)) is None
    assert row_format(Elementwise(op="quantise", rows=1, width=64, bytes_per_row=64 * 3, dtype="bf16")) is None
    assert row_format(Elementwise(op="norm", rows=1, width=64, bytes_per_row=256)) is None


def test_a_rounding_is_named_by_what_it_writes() -> None:
    """Rows of a rounding op carry the format of the result, as measurements do, whatever the input's is."""
    assert small_op("quantise", rows=1, width=64, dtype="fp32", out="int8", scales=1).dtype == "w8a8"
    assert row_format(small_op("quantise", rows=1, width=64, dtype="fp32", out="fp8", scales=1)) == RowFormat(
        width=64, dtype="fp32", out="fp8", scales=1
    )
