"""Which points the stages of a campaign measure: sizes whose times are known, then what no table of others holds.

Products and plain attention have the exact sizes of the imported tables of H200 and its siblings (`TABLE_SIDES`,
`TABLE_TOKENS`), hot as those were measured and cold as a serving step finds them. Joules have sizes of their own: a
point that is stored is not measured again. A CPU gets a few small sizes, so that the same code runs.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.small_ops import small_op
from profiler.planning.grid import DeviceKind, attention_shape, product_shape
from profiler.point import OpShape, small_op_shape
from profiles_db.manifest import ShapeManifest, manifest_schema
from profiles_db.schema import FAMILIES

# n and k of the imported tables, save both at 65536.
TABLE_SIDES: Final = (
    *(32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240),
    *(12288, 16384, 51200, 65536),
)
TABLE_TOKENS: Final = (
    *range(1, 18),
    *(side + extra for side in (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512) for extra in (0, 1)),
    *(side + extra for side in range(768, 4353, 256) for extra in (0, 1)),
    *(8192, 16384, 32768),
)
# (n, k) of layers under tensor parallelism that the tables hold: Llama-3.1-70B, its 8B, Qwen3-32B and -8B.
_PRODUCTS: Final[dict[DeviceKind, tuple[tuple[int, int], ...]]] = {
    "cpu": ((512, 512), (1024, 512)),
    "cuda": (
        *((10240, 8192), (5120, 8192), (2560, 8192), (8192, 8192), (8192, 4096), (8192, 1024), (7168, 8192)),
        *((8192, 3584), (6144, 4096), (4096, 4096), (7168, 4096), (4096, 3584)),
        *((51200, 5120), (10240, 5120), (12288, 4096)),
    ),
}
_PRODUCT_TOKENS: Final[dict[DeviceKind, tuple[int, ...]]] = {
    "cpu": (1, 16),
    "cuda": (1, 8, 16, 64, 128, 256, 512, 1024, 4096, 8192),
}
_FORMAT_TOKENS: Final[dict[DeviceKind, tuple[int, ...]]] = {"cpu": (1, 16), "cuda": (1, 16, 128, 1024, 8192)}
_FORMAT_PRODUCTS: Final = 10  # of those above: W8A8 has two kernels
_ROWS: Final[dict[DeviceKind, tuple[int, ...]]] = {"cpu": (1, 64), "cuda": (1, 16, 128, 1024, 8192)}
_WIDTHS: Final[dict[DeviceKind, tuple[int, ...]]] = {"cpu": (256,), "cuda": (4096, 8192)}
_VOCABULARY: Final[dict[DeviceKind, int]] = {"cpu": 1024, "cuda": 128256}
# (query heads, KV heads, head_dim) of one rank.
_HEADS: Final[dict[DeviceKind, tuple[tuple[int, int, int], ...]]] = {
    "cpu": ((4, 2, 64),),
    "cuda": ((64, 8, 128), (32, 8, 128), (8, 1, 128)),
}
_PREFILLS: Final[dict[DeviceKind, tuple[tuple[int, int], ...]]] = {  # whole prompts, tokens of each
    "cpu": ((1, 32),),
    "cuda": ((1, 512), (1, 1024), (1, 4096), (1, 8192), (4, 1024), (16, 512)),
}
_DECODES: Final[dict[DeviceKind, tuple[tuple[int, int], ...]]] = {  # sequences, cached tokens of each
    "cpu": ((2, 64),),
    "cuda": (
        *((1, 1024), (1, 8192), (1, 65536), (16, 1024), (16, 8192), (64, 1024), (64, 4096), (256, 1024)),
        *((256, 2048), (512, 512)),
    ),
}
# Chunks behind a prefix, batches of both kinds and sequences of uneven length, each beside a plain call of above.
_CHUNKS: Final[dict[DeviceKind, tuple[tuple[int, int], ...]]] = {
    "cpu": ((16, 48),),
    "cuda": ((512, 4096), (1024, 8192), (4096, 8192)),
}
_MIXED: Final[dict[DeviceKind, tuple[tuple[tuple[int, int], tuple[int, int]], ...]]] = {
    "cpu": (((1, 32), (2, 64)),),
    "cuda": (((1, 1024), (64, 1024)), ((1, 4096), (16, 1024))),
}
_UNEVEN: Final[dict[DeviceKind, tuple[tuple[int, int, int], ...]]] = {
    "cpu": ((2, 64, 96),),
    "cuda": ((16, 1024, 4096), (64, 1024, 4096), (256, 1024, 4096)),
}
# (format, m, n, k) below the power limit, save the last; then attention and small ops.
_WARM_PRODUCTS: Final[dict[DeviceKind, tuple[tuple[str, int, int, int], ...]]] = {
    "cpu": (("bf16", 2, 512, 512),),
    "cuda": (
        *(("bf16", 4, 8192, 8192), ("bf16", 32, 10240, 8192), ("bf16", 96, 51200, 5120), ("fp8", 32, 8192, 8192)),
        *(("w8a8", 32, 8192, 8192), ("bf16", 192, 8192, 8192), ("fp8", 160, 10240, 8192), ("bf16", 2048, 8192, 8192)),
    ),
}
_WARM_DECODES: Final[dict[DeviceKind, tuple[tuple[int, int], ...]]] = {
    "cpu": ((3, 64),),
    "cuda": ((32, 4096), (128, 2048)),
}
_WARM_HEADS: Final[dict[DeviceKind, tuple[int, int, int]]] = {"cpu": (4, 2, 64), "cuda": (16, 2, 128)}
_WARM_PROMPT: Final[dict[DeviceKind, int]] = {"cpu": 16, "cuda": 2048}
_WARM_ROWS: Final[dict[DeviceKind, int]] = {"cpu": 16, "cuda": 32768}
# A product of each format, whose run then tells the clock after seconds of a large one.
_SUSTAINED: Final[dict[DeviceKind, tuple[int, int, int]]] = {"cpu": (8, 512, 512), "cuda": (3072, 8192, 8192)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PointList:
    """Ops, and the states of their operands: none for the one in which a serving step finds them."""

    ops: tuple[OpShape, ...]
    caches: tuple[str, ...] = ()


def listed_points(stage: str, kind: DeviceKind, dtypes: Sequence[str]) -> tuple[PointList, ...]:
    """Return what a stage measures, list after list; formats that are not asked for are left out."""
    both = ("hot", "cold")
    lists: dict[str, tuple[tuple[Iterator[OpShape], tuple[str, ...]], ...]] = {
        "products": ((_products(kind), both),),
        "formats": ((_formats(kind), ("cold",)),),
        "small_ops": ((_small_ops(kind), both),),
        "attention": ((_uncommon_attention(kind), ()), (_plain_attention(kind), both)),
        "joules": ((_warm(kind), ()),),
        "clocks": ((_sustained(kind, dtypes), ("hot",)),),
    }
    kept = (PointList(ops=tuple(op for op in ops if op.dtype in dtypes), caches=caches) for ops, caches in lists[stage])
    return tuple(one for one in kept if one.ops)


def write_points(ops: Iterable[OpShape], path: Path) -> None:
    """Write ops as a shape manifest, each once; raises ``OutputError`` when the disk refuses."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for op in dict.fromkeys(ops):
        rows.setdefault(op.family, []).append({**op.shape, "dtype": op.dtype})
    tables = {
        family: pa.Table.from_pylist(found, schema=manifest_schema(FAMILIES[family])) for family, found in rows.items()
    }
    ShapeManifest(tables=tables).save(path)


def _products(kind: DeviceKind) -> Iterator[OpShape]:
    for n, k in _PRODUCTS[kind]:
        for m in _PRODUCT_TOKENS[kind]:
            yield product_shape("bf16", m, n, k)


def _formats(kind: DeviceKind) -> Iterator[OpShape]:
    for n, k in _PRODUCTS[kind][:_FORMAT_PRODUCTS]:
        for m in _FORMAT_TOKENS[kind]:
            for dtype in ("fp8", "w8a8"):
                yield product_shape(dtype, m, n, k)


def _small_ops(kind: DeviceKind) -> Iterator[OpShape]:
    for rows in _ROWS[kind]:
        for width in _WIDTHS[kind]:
            for name in ("rmsnorm", "add_rmsnorm", "silu_mul", "rope", "kv_write"):
                yield small_op_shape(small_op(name, rows=rows, width=width, dtype="bf16"))
            for dtype in ("fp8", "w8a8"):
                out = SCHEMES[dtype].activation
                yield small_op_shape(small_op("quantise", rows=rows, width=width, dtype="bf16", out=out, scales=1))
        yield small_op_shape(small_op("sampler", rows=min(rows, 1024), width=_VOCABULARY[kind], dtype="bf16"))


def _plain_attention(kind: DeviceKind) -> Iterator[OpShape]:
    for heads in _HEADS[kind]:
        for prompts, tokens in _PREFILLS[kind]:
            yield attention_shape("bf16", heads, prefill=(prompts, tokens, tokens))
        for sequences, kv in _DECODES[kind]:
            yield attention_shape("bf16", heads, decode=(sequences, kv, kv))


def _uncommon_attention(kind: DeviceKind) -> Iterator[OpShape]:
    for heads in _HEADS[kind]:
        for q, kv in _CHUNKS[kind]:
            yield attention_shape("bf16", heads, prefill=(1, q, kv))
        for (prompts, tokens), (sequences, kv) in _MIXED[kind]:
            yield attention_shape("bf16", heads, prefill=(prompts, tokens, tokens), decode=(sequences, kv, kv))
        for sequences, kv, longest in _UNEVEN[kind]:
            yield attention_shape("bf16", heads, decode=(sequences, kv, longest))


def _warm(kind: DeviceKind) -> Iterator[OpShape]:
    heads = _WARM_HEADS[kind]
    for dtype, m, n, k in _WARM_PRODUCTS[kind]:
        yield product_shape(dtype, m, n, k)
    for sequences, kv in _WARM_DECODES[kind]:
        yield attention_shape("bf16", heads, decode=(sequences, kv, kv))
    yield attention_shape("bf16", heads, prefill=(1, _WARM_PROMPT[kind], _WARM_PROMPT[kind]))
    for name in ("copy", "add_rmsnorm", "silu_mul"):
        yield small_op_shape(small_op(name, rows=_WARM_ROWS[kind], width=_WIDTHS[kind][0], dtype="bf16"))


def _sustained(kind: DeviceKind, dtypes: Sequence[str]) -> Iterator[OpShape]:
    for dtype in dtypes:
        yield product_shape(dtype, *_SUSTAINED[kind])
