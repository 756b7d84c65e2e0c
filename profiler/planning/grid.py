"""The general grid: what is measured when no manifest says which shapes a search will ask for.

Token counts follow the captured sizes of serving engines and both sides of tile edges (64, 65, 128, 129 ...), weights
the hidden and inner sizes of common models under tensor parallelism, messages powers of two.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal

from cluster_specs.errors import UserError
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.small_ops import small_op
from profiler.collectives.groups import GroupLayout
from profiler.point import OpShape, small_op_shape
from profiles_db.collective_kinds import COLLECTIVE_KINDS

DeviceKind = Literal["cpu", "cuda"]
FAMILIES: Final = ("gemm", "attention", "moe", "elementwise", "collective")
DEFAULT_DTYPES: Final[dict[DeviceKind, tuple[str, ...]]] = {
    "cpu": ("bf16", "fp32"),
    "cuda": ("bf16", "fp8", "w8a8"),
}
_FLOATS: Final = frozenset({"bf16", "fp16", "fp32"})
_SCALING: Final = {
    "fp8": "row",
    "w8a8": "row",
    "w8a16": "row",
    "w4a16": "group128",
    "fp8_block": "group128",
    "mxfp4": "group32",
}
_TOKENS: Final[dict[DeviceKind, tuple[int, ...]]] = {
    "cpu": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "cuda": (
        *(1, 2, 4, 8, 16, 24, 32, 48, 64, 65, 96, 128, 129, 160, 192, 256, 257, 320, 384, 512, 513),
        *(768, 1024, 1025, 1536, 2048, 3072, 4096, 6144, 8192, 16384),
    ),
}
# (n, k) of qkv, o, gate-up, down and lm_head under various degrees of tensor parallelism.
_WEIGHTS: Final[dict[DeviceKind, tuple[tuple[int, int], ...]]] = {
    "cpu": ((1024, 1024), (1536, 1024), (4096, 1024), (1024, 4096), (2048, 2048), (4096, 2048), (2048, 4096)),
    "cuda": (
        *((1280, 8192), (2560, 8192), (5120, 8192), (10240, 8192), (8192, 1024), (8192, 2048), (8192, 4096)),
        *((8192, 8192), (7168, 8192), (14336, 8192), (28672, 8192), (57344, 8192), (8192, 3584), (8192, 7168)),
        *((8192, 14336), (8192, 28672), (4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (16032, 8192)),
        *((128256, 4096), (2048, 2048), (4096, 2048), (2048, 4096), (1536, 2048), (2048, 768)),
    ),
}
# (query heads, KV heads, head_dim) on one rank.
_HEADS: Final[dict[DeviceKind, tuple[tuple[int, int, int], ...]]] = {
    "cpu": ((8, 2, 64), (16, 4, 128)),
    "cuda": ((64, 8, 128), (32, 8, 128), (16, 2, 128), (8, 1, 128), (32, 32, 128), (64, 8, 64)),
}
_PREFILL_Q: Final[dict[DeviceKind, tuple[int, ...]]] = {
    "cpu": (16, 64, 128, 256, 512, 1024),
    "cuda": (128, 256, 512, 1024, 2048, 4096, 8192, 16384),
}
_PREFIX: Final[dict[DeviceKind, tuple[int, ...]]] = {"cpu": (0, 512, 2048), "cuda": (0, 1024, 4096, 16384, 65536)}
_SEQUENCES: Final[dict[DeviceKind, tuple[int, ...]]] = {
    "cpu": (1, 2, 4, 8, 16, 32),
    "cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
}
_CONTEXT: Final[dict[DeviceKind, tuple[int, ...]]] = {
    "cpu": (64, 256, 1024, 2048),
    "cuda": (128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072),
}
# Largest KV of one call in tokens times KV heads: 64 Ki tokens fit a laptop, 16 Mi a data-centre GPU.
_MAX_KV_HEAD_TOKENS: Final[dict[DeviceKind, int]] = {"cpu": 1 << 17, "cuda": 1 << 24}
# (hidden, inner, experts, topk, tp, ep)
_EXPERTS: Final[dict[DeviceKind, tuple[tuple[int, ...], ...]]] = {
    "cpu": ((512, 256, 8, 2, 1, 1), (512, 512, 16, 4, 2, 1)),
    "cuda": (
        (4096, 14336, 8, 2, 8, 1),
        (2048, 768, 128, 8, 1, 1),
        (4096, 1536, 128, 8, 1, 8),
        (7168, 2048, 256, 8, 1, 8),
    ),
}
_ROWS: Final[dict[DeviceKind, tuple[int, ...]]] = {
    "cpu": (1, 8, 64, 256, 1024),
    "cuda": (1, 8, 64, 256, 1024, 4096, 16384),
}
_WIDTHS: Final[dict[DeviceKind, tuple[int, ...]]] = {"cpu": (1024, 4096), "cuda": (2048, 4096, 8192, 16384)}
_MESSAGE_EXPONENTS: Final[dict[DeviceKind, range]] = {"cpu": range(10, 25, 2), "cuda": range(10, 29)}


def general_grid(
    kind: DeviceKind, *, families: Sequence[str], dtypes: Sequence[str], layouts: Sequence[GroupLayout] = ()
) -> list[OpShape]:
    """Return every op shape of the grid for one kind of device; raises ``UserError`` for an unknown family."""
    unknown = set(families) - set(FAMILIES)
    if unknown:
        raise UserError(f"no general grid for {', '.join(sorted(unknown))}", hint=f"one of {', '.join(FAMILIES)}")
    shapes: list[OpShape] = []
    for family in families:
        if family == "collective":
            shapes += _collectives(kind, layouts)
            continue
        for dtype in dtypes:
            shapes += {"gemm": _gemms, "attention": _attentions, "moe": _moes, "elementwise": _small_ops}[family](
                kind, dtype
            )
    return shapes


def _gemms(kind: DeviceKind, dtype: str) -> Iterator[OpShape]:
    for n, k in _WEIGHTS[kind]:
        for m in _TOKENS[kind]:
            yield product_shape(dtype, m, n, k)


def product_shape(dtype: str, m: int, n: int, k: int) -> OpShape:
    """Build the shape of a product as engines scale its format, without rounding the activations."""
    return OpShape.of("gemm", dtype=dtype, m=m, n=n, k=k, scaling=_SCALING.get(dtype, "none"), quantise=False)


def _attentions(kind: DeviceKind, dtype: str) -> Iterator[OpShape]:
    if dtype not in _FLOATS:
        return
    limit = _MAX_KV_HEAD_TOKENS[kind]
    for heads in _HEADS[kind]:
        for q in _PREFILL_Q[kind]:
            for prefix in _PREFIX[kind]:
                yield attention_shape(dtype, heads, prefill=(1, q, q + prefix))
        for sequences in _SEQUENCES[kind]:
            for context in _CONTEXT[kind]:
                if sequences * context * heads[1] <= limit:
                    yield attention_shape(dtype, heads, decode=(sequences, context, context))
                    # A batch whose longest sequence has four times the mean: stragglers cost.
                    if sequences >= 8 and context * 4 <= _CONTEXT[kind][-1]:
                        yield attention_shape(dtype, heads, decode=(sequences, context, 4 * context))
    heads, middle = _HEADS[kind][0], _PREFILL_Q[kind][len(_PREFILL_Q[kind]) // 2]
    for sequences in _SEQUENCES[kind][2::2]:
        yield attention_shape(dtype, heads, prefill=(1, middle, middle), decode=(sequences, 1024, 1024))


def attention_shape(
    dtype: str,
    heads: tuple[int, int, int],
    *,
    prefill: tuple[int, int, int] = (0, 0, 0),
    decode: tuple[int, int, int] = (0, 0, 0),
    window: int = 0,
) -> OpShape:
    """Build an attention shape from (query heads, KV heads, head_dim), (chunks, q, kv) and (sequences, mean, max)."""
    phase = "mixed" if prefill[0] and decode[0] else "prefill" if prefill[0] else "decode"
    return OpShape.of(
        "attention",
        dtype=dtype,
        phase=phase,
        variant="gqa",
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=heads[2],
        v_head_dim=heads[2],
        window=window,
        kv_dtype=dtype,
        num_prefill=prefill[0],
        prefill_q=prefill[1],
        prefill_kv=prefill[2],
        num_decode=decode[0],
        decode_q=1,
        decode_kv=decode[1],
        decode_kv_max=decode[2],
    )


def _moes(kind: DeviceKind, dtype: str) -> Iterator[OpShape]:
    for hidden, inter, experts, topk, tp, ep in _EXPERTS[kind]:
        for routing in ("balanced", "power_law_1.2"):
            for tokens in _TOKENS[kind]:
                yield OpShape.of(
                    "moe",
                    dtype=dtype,
                    num_tokens=tokens,
                    hidden=hidden,
                    inter=inter,
                    num_experts=experts,
                    topk=topk,
                    tp=tp,
                    ep=ep,
                    routing=routing,
                )


def _small_ops(kind: DeviceKind, dtype: str) -> Iterator[OpShape]:
    names: Iterable[str] = ("rmsnorm", "add_rmsnorm", "silu_mul", "rope", "embedding", "sampler")
    made_of: dict[str, Any] = {"dtype": dtype}
    if dtype not in _FLOATS:
        names = ("quantise",) if dtype in {"fp8", "w8a8"} else ()
        made_of = {"dtype": "bf16", "out": SCHEMES[dtype].activation, "scales": 1}
    for name in names:
        for width in _WIDTHS[kind]:
            for rows in _ROWS[kind]:
                yield small_op_shape(small_op(name, rows=rows, width=width, **made_of))


def _collectives(kind: DeviceKind, layouts: Sequence[GroupLayout]) -> Iterator[OpShape]:
    for layout in layouts:
        ranks, nodes, level = layout.key
        for name in COLLECTIVE_KINDS:
            if name == "send_recv" and ranks != 2:
                continue
            for exponent in _MESSAGE_EXPONENTS[kind]:
                yield OpShape.of(
                    "collective",
                    dtype="bf16",
                    kind=name,
                    ranks=ranks,
                    nodes=nodes,
                    level=level,
                    message_bytes=ranks * (1 << exponent) // 2,
                )
