"""One table of the small ops: the bytes a row of each moves, whether it works in place, and which kernels run it.

To add a small op, add its entry here, and its function to ``profiler/kernels/torch_rows.py``; a cell then emits it
through ``small_op``. Where a place is missed, ``tests/costmodel/test_small_ops.py`` or
``tests/profiler/test_small_ops.py`` names it.

Bytes are compulsory traffic: each operand that belongs to the row is read once, each result is written once. What all
rows share (a norm's weights, the angles of a position, the taps of a convolution) is not counted. ``width`` is the
row in elements, as the entry's ``meaning`` says.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from functools import lru_cache
from math import ceil
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Elementwise, Ints

SCALE_GROUP: Final = 128  # columns that share one scale where a format scales by groups
# The format that a rounding op writes -> the `dtype` of its rows; measurements name integers by their GEMM's scheme.
ROUNDED_DTYPES: Final[Mapping[str, str]] = {"fp8": "fp8", "int8": "w8a8", "nvfp4": "nvfp4"}
_FLOATS: Final = frozenset({"bf16", "fp16", "fp32"})
_ROUNDED: Final = frozenset(ROUNDED_DTYPES.values())
_ONE_BYTE: Final = frozenset({"fp8", "w8a8"})
_SCALE_BYTES: Final = 4
_CHOICE_BYTES: Final = 8  # an fp32 weight and an int32 index


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFormat:
    """What a row is made of: ``width`` elements of ``dtype``, and what the op needs to know beside them.

    ``out`` is the format of the result where it is not ``dtype``, ``scales`` the number of fp32 scales written beside
    a rounded row (none where a checkpoint states them), ``chosen`` how many entries of a row are picked.
    """

    width: int
    dtype: str
    out: str = ""
    scales: int = 0
    chosen: int = 0

    @property
    def own_bytes(self) -> float:
        """Bytes of a row in the input's format."""
        return self.width * DTYPE_BYTES[self.dtype]

    @property
    def out_bytes(self) -> float:
        """Bytes of a result in its own format, with its scales."""
        return self.width * DTYPE_BYTES[self.out or self.dtype] + _SCALE_BYTES * self.scales


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallOp:
    """One entry: ``meaning`` says what a row is and where the count comes from.

    ``torch`` and ``triton`` are the ``dtype`` values of rows for which the profiler's backend of that name has a
    kernel; ``vllm`` names vLLM's own by ``dtype``. ``in_place``: results overwrite operands that exist anyway, so a
    step needs no memory for them. ``rounds``: the result is a row of fewer bits, and ``dtype`` names its format.
    """

    name: str
    meaning: str
    bytes_per_row: Callable[[RowFormat], float]
    in_place: bool = False
    rounds: bool = False
    converts: tuple[str, ...] = ()  # formats a result may have; none: the input's
    chooses: bool = False
    torch: frozenset[str] = _FLOATS
    triton: frozenset[str] = frozenset()
    vllm: Mapping[str, str] = field(default_factory=dict)

    def formats(self, dtype: str, width: int) -> Iterator[RowFormat]:
        """Yield every row a measurement of ``dtype`` and ``width`` can be about, the likeliest first."""
        if self.rounds:
            groups = ceil(width / SCALE_GROUP)
            for out in (out for out, name in ROUNDED_DTYPES.items() if name == dtype):
                for own in ("bf16", "fp32"):
                    for scales in dict.fromkeys((1, groups, 0)):
                        yield RowFormat(width=width, dtype=own, out=out, scales=scales)
        elif dtype in _FLOATS:
            for out in sorted(self.converts, key=lambda name: name != dtype) or (dtype,):
                for chosen in range(1, width + 1) if self.chooses else (0,):
                    yield RowFormat(width=width, dtype=dtype, out=out, chosen=chosen)


def _passes(count: int) -> Callable[[RowFormat], float]:
    """Read or write ``count`` rows of the input's format."""
    return lambda row: count * row.own_bytes


def _into_own_format(reads: int) -> Callable[[RowFormat], float]:
    """Read ``reads`` rows and write one in the result's own format."""
    return lambda row: reads * row.own_bytes + row.out_bytes


def _choice(row: RowFormat) -> float:
    return row.width * DTYPE_BYTES["fp32"] + _CHOICE_BYTES * row.chosen


def _squares(row: RowFormat) -> float:
    return row.own_bytes + DTYPE_BYTES["fp32"]


def _draw(row: RowFormat) -> float:
    return row.own_bytes + 2 * row.width * DTYPE_BYTES["fp32"]


ACTIVATIONS: Final = ("silu", "gelu", "relu", "relu2", "xielu")


def _activations() -> Iterator[SmallOp]:
    for name in ACTIVATIONS:
        gated, alone = f"{name}_mul", f"{name} of every element; `width` is that of the result"
        meaning = f"{name} of one half of a row of 2 x `width` times the other half"
        yield SmallOp(name=name, meaning=alone, bytes_per_row=_passes(2), triton=_FLOATS)
        yield SmallOp(name=gated, meaning=meaning, bytes_per_row=_passes(3), triton=_FLOATS)
        for base, text, reads in ((name, alone, 1), (gated, meaning, 2)):
            yield SmallOp(
                name=f"{base}_quantise",
                meaning=f"{text}, rounded",
                bytes_per_row=_into_own_format(reads),
                rounds=True,
                torch=_ROUNDED,
                triton=_ONE_BYTE,
            )


def _norms() -> Iterator[SmallOp]:
    for kind, meaning in (("rmsnorm", "RMS norm of a row"), ("layernorm", "layer norm of a row")):
        is_rms = kind == "rmsnorm"
        yield SmallOp(
            name=kind,
            meaning=meaning,
            bytes_per_row=_passes(2),
            triton=_FLOATS if is_rms else frozenset(),
            vllm={"bf16": "vllm.rms_norm"} if is_rms else {},
        )
        yield SmallOp(
            name=f"{kind}_quantise",
            meaning=f"{meaning}, rounded",
            bytes_per_row=_into_own_format(1),
            rounds=True,
            torch=_ROUNDED,
            triton=_ONE_BYTE,
        )
        added = f"residual += x, then {meaning}: both are read, both are written"
        yield SmallOp(
            name=f"add_{kind}",
            meaning=f"{added} (vLLM's fused_add_rms_norm overwrites both)",
            bytes_per_row=_passes(4),
            in_place=True,
            triton=_FLOATS,
            vllm={"bf16": "vllm.fused_add_rms_norm"} if is_rms else {},
        )
        yield SmallOp(
            name=f"add_{kind}_quantise",
            meaning=f"{added}, the norm rounded",
            bytes_per_row=_into_own_format(3),
            in_place=True,
            rounds=True,
            torch=_ROUNDED,
            triton=_ONE_BYTE,
        )


_ENTRIES: Final = (
    *_norms(),
    *_activations(),
    SmallOp(
        name="qk_norm",
        meaning="RMS norm of each head of a token's queries and keys, which lie side by side",
        bytes_per_row=_passes(2),
        triton=_FLOATS,
    ),
    SmallOp(
        name="square_sum",
        meaning="sum of a row's squares in fp32, as norms over the heads of all ranks take it before they reduce it",
        bytes_per_row=_squares,
    ),
    SmallOp(
        name="rmsnorm_gate",
        meaning="RMS norm of each head of x times SiLU of a gate as wide (gated delta rule, Mamba-2): x, gate, result",
        bytes_per_row=_passes(3),
        triton=_FLOATS,
    ),
    SmallOp(
        name="sigmoid_mul",
        meaning="x times the sigmoid of a gate as wide: x, gate, result",
        bytes_per_row=_passes(3),
        triton=_FLOATS,
    ),
    SmallOp(
        name="rope",
        meaning="rotation of each head of queries and keys by a token's angles, which all layers share",
        bytes_per_row=_passes(2),
        triton=_FLOATS,
        vllm={"bf16": "vllm.rotary_embedding"},
    ),
    SmallOp(
        name="conv1d",
        meaning="causal convolution of each channel over four tokens, then SiLU; neighbours' inputs are shared",
        bytes_per_row=_passes(2),
        triton=_FLOATS,
    ),
    SmallOp(
        name="add",
        meaning="x += y: both are read, the sum is written over one of them",
        bytes_per_row=_passes(3),
        in_place=True,
    ),
    SmallOp(
        name="cast",
        meaning="a row in another format, as routers that are kept in fp32 take it",
        bytes_per_row=_into_own_format(1),
        converts=("fp32",),
    ),
    SmallOp(name="copy", meaning="a row read and written", bytes_per_row=_passes(2)),
    SmallOp(
        name="embedding",
        meaning="one row of a table by its number, read and written",
        bytes_per_row=_passes(2),
    ),
    SmallOp(
        name="gather_rows",
        meaning="the rows that are sampled of all rows of a step, read and written",
        bytes_per_row=_passes(2),
    ),
    SmallOp(
        name="kv_write",
        meaning="keys and values of a token (`width` of both together) into the cache, in the cache's format",
        bytes_per_row=_into_own_format(1),
        converts=("bf16", "fp16", "fp8", "fp32"),
        triton=_FLOATS,
    ),
    SmallOp(
        name="quantise",
        meaning="x rounded to fewer bits, with a scale per row, per 128 columns, or none where it is known before",
        bytes_per_row=_into_own_format(1),
        rounds=True,
        torch=_ROUNDED,
        triton=_ONE_BYTE,
        vllm={"fp8": "vllm.scaled_fp8_quant", "w8a8": "vllm.scaled_int8_quant"},
    ),
    SmallOp(
        name="topk",
        meaning="softmax over `width` experts: fp32 scores in, an fp32 weight and an int32 number per choice out",
        bytes_per_row=_choice,
        chooses=True,
    ),
    SmallOp(
        name="sampler",
        meaning=(
            "a token drawn from `width` logits: they are cast to fp32, and that copy is read once more to draw "
            "(vLLM's sampler begins with `logits.to(torch.float32)`)"
        ),
        bytes_per_row=_draw,
    ),
)

SMALL_OPS: Final[Mapping[str, SmallOp]] = {entry.name: entry for entry in _ENTRIES}


def small_op(
    name: str, *, rows: Ints, width: int, dtype: str, out: str = "", scales: int = 0, chosen: int = 0
) -> Elementwise:
    """Return the op of ``rows`` tokens as the table counts it; the arguments are those of ``RowFormat``.

    A name that the table does not hold is a defect of the program: ``KeyError``.
    """
    named, moved = _counted(name, RowFormat(width=width, dtype=dtype, out=out, scales=scales, chosen=chosen))
    return Elementwise(op=name, rows=rows, width=width, bytes_per_row=moved, dtype=named)


@lru_cache(maxsize=4096)  # a model has some ten kinds of rows, and every plan of a search asks for them again
def _counted(name: str, row: RowFormat) -> tuple[str, float]:
    """Return the ``dtype`` by which a row is measured, and its bytes."""
    if name not in SMALL_OPS:
        msg = f"no small op is called {name}: add its entry to costmodel/ops/small_ops.py"
        raise KeyError(msg)
    entry = SMALL_OPS[name]
    return ROUNDED_DTYPES[row.out] if entry.rounds else row.dtype, entry.bytes_per_row(row)


def writes_scales(op: Elementwise) -> bool:
    """Whether an op that rounds to FP8 finds scales and writes them: known ones leave whole bytes per element."""
    return op.bytes_per_row % op.width != 0


def works_in_place(name: str) -> bool:
    """Whether an op's results overwrite its operands; one of a person's own cell, unknown to the table, does not."""
    return name in SMALL_OPS and SMALL_OPS[name].in_place


def row_format(op: Elementwise) -> RowFormat | None:
    """Return what a row of ``op`` must be made of to move the bytes it states; None where the table knows no such row.

    This is the way back from a row of a manifest, which states bytes, to operands that a kernel can be run on.
    """
    entry = SMALL_OPS.get(op.op)
    if entry is None:
        return None
    fitting = (row for row in entry.formats(op.dtype, op.width) if _agree(entry.bytes_per_row(row), op.bytes_per_row))
    return next(fitting, None)


def _agree(counted: float, stated: float) -> bool:
    """Whether two counts are one: rows of fractional bytes are stated to the whole byte."""
    return abs(counted - stated) <= 0.5
