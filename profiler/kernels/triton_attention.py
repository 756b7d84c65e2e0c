# Triton's own conventions: compile-time constants in capitals, operands by position, no types inside a kernel.
# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Our own Triton attention over paged KV: decode, chunks, mixed batches, windows, FP8 KV, MLA's latent in one kernel.

The rows of a tile are (query, head) pairs that share a KV head, so that keys are read once per group (GQA packing). A
tile's visible keys may be split over several programs (flash decoding); the host plans that (`AttentionPlan`) and a
second kernel merges the parts by their log-sums. Only tiles at the diagonal or the edge of a window are masked.

e4m3 keys and values are widened to fp16, which is exact and one instruction per pair (bf16 would pass through fp32);
their scales, one per KV head, are applied to the scores and to the result. Softmax runs in base 2 and fp32.
"""

import math
from typing import Final

import torch
import triton
import triton.language as tl

from cluster_specs.lazy_dataclass import dataclass
from profiler.backend import Prepared, Unsupported
from profiler.kernels.attention import page_table, sequence_lengths
from profiler.kernels.attention_plan import AttentionPlan
from profiler.kernels.buffers import Buffers
from profiler.kernels.quantise import require_fp8
from profiler.kernels.triton_tiles import multiprocessors
from profiler.point import OpShape

_LOG2_E: Final = math.log2(math.e)
_PAGE_TOKENS: Final = 16  # as engines page their cache
_LEAST_SIDE: Final = 16  # of an operand of the tensor core
_NEVER: Final = tl.constexpr(-1e30)
_MERGE_ROWS: Final = 8


@triton.jit
def _widened(x, WIDEN: tl.constexpr):
    return x.to(tl.float16) if WIDEN else x


@triton.jit
def _attend(
    acc, highest, total, q, q_extra, position, k_ptr, v_ptr, pages_ptr, kv_head, kv_heads, scale, begin, end, last,
    MASKED: tl.constexpr, WINDOW: tl.constexpr, PAGE: tl.constexpr, MAIN: tl.constexpr, EXTRA: tl.constexpr,
    VALUE: tl.constexpr, VALUE_BLOCK: tl.constexpr, LATENT: tl.constexpr, WIDEN: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Take keys [begin, end) into the running softmax; keys from ``last`` on belong to another program."""
    main, value = tl.arange(0, MAIN), tl.arange(0, VALUE_BLOCK)
    for start in range(begin, end, KEYS):
        key = start + tl.arange(0, KEYS)
        place = tl.minimum(key, last - 1) if MASKED else key
        page = tl.load(pages_ptr + place // PAGE).to(tl.int64)
        cell = (page * PAGE + place % PAGE) * kv_heads + kv_head
        k_rows = k_ptr + cell[:, None] * (MAIN + EXTRA)
        k = _widened(tl.load(k_rows + main[None, :]), WIDEN)
        scores = tl.dot(q, tl.trans(k))
        if EXTRA:
            k_extra = _widened(tl.load(k_rows + MAIN + tl.arange(0, EXTRA)[None, :]), WIDEN)
            scores = tl.dot(q_extra, tl.trans(k_extra), scores)
        if MASKED:
            visible = (key[None, :] <= position[:, None]) & (key < last)[None, :]
            if WINDOW:
                visible &= key[None, :] > position[:, None] - WINDOW
            scores = tl.where(visible, scores, float("-inf"))
        risen = tl.maximum(highest, tl.max(scores, axis=1) * scale)
        p = tl.exp2(scores * scale - risen[:, None])
        shrink = tl.exp2(highest - risen)
        total = total * shrink + tl.sum(p, axis=1)
        highest = risen
        if LATENT:
            v = k
        elif VALUE == VALUE_BLOCK:
            v = _widened(tl.load(v_ptr + cell[:, None] * VALUE + value[None, :]), WIDEN)
        else:
            v = tl.load(v_ptr + cell[:, None] * VALUE + value[None, :], mask=(value < VALUE)[None, :], other=0.0)
            v = _widened(v, WIDEN)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
    return acc, highest, total


@triton.jit(do_not_specialize=["table_width"])  # one binary serves every length
def _attention_kernel(
    q_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, table_ptr, work_ptr, out_ptr, parts_ptr, lse_ptr,
    table_width, heads, kv_heads, softmax_scale,
    GROUP: tl.constexpr, WINDOW: tl.constexpr, PAGE: tl.constexpr, MAIN: tl.constexpr, EXTRA: tl.constexpr,
    VALUE: tl.constexpr, VALUE_BLOCK: tl.constexpr, LATENT: tl.constexpr, WIDEN: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One item of the plan for one KV head: ROWS (query, head) pairs of a sequence over a range of its keys."""
    item, kv_head = work_ptr + tl.program_id(0) * 8, tl.program_id(1)
    sequence, first_token, first_row, rows = tl.load(item), tl.load(item + 1), tl.load(item + 2), tl.load(item + 3)
    begin, end, prefix, slot = tl.load(item + 4), tl.load(item + 5), tl.load(item + 6), tl.load(item + 7)
    row = first_row + tl.arange(0, ROWS)
    query = tl.minimum(row, rows - 1) // GROUP
    head = kv_head * GROUP + tl.minimum(row, rows - 1) % GROUP
    q_row = (first_token + query).to(tl.int64) * heads + head
    q_rows = q_ptr + q_row[:, None] * (MAIN + EXTRA)
    q = _widened(tl.load(q_rows + tl.arange(0, MAIN)[None, :]), WIDEN)
    q_extra = _widened(tl.load(q_rows + MAIN + tl.arange(0, EXTRA)[None, :]), WIDEN) if EXTRA else q
    position = prefix + query
    scale = softmax_scale * tl.load(k_scale_ptr + kv_head)
    pages_ptr = table_ptr + sequence.to(tl.int64) * table_width

    highest = tl.full((ROWS,), _NEVER, dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    acc = tl.zeros((ROWS, VALUE_BLOCK), dtype=tl.float32)
    # Keys [low, high) are seen by every row: no mask. Before them a window cuts, after them the diagonal does.
    low = begin
    if WINDOW:
        last_position = prefix + (min(first_row + ROWS, rows) - 1) // GROUP
        low = begin + tl.cdiv(max(last_position - WINDOW + 1 - begin, 0), KEYS) * KEYS
        acc, highest, total = _attend(
            acc, highest, total, q, q_extra, position, k_ptr, v_ptr, pages_ptr, kv_head, kv_heads, scale,
            begin, min(low, end), end,
            True, WINDOW, PAGE, MAIN, EXTRA, VALUE, VALUE_BLOCK, LATENT, WIDEN, KEYS,
        )  # fmt: skip
    seen_by_all = min(prefix + first_row // GROUP + 1, end)
    high = max(begin + max(seen_by_all - begin, 0) // KEYS * KEYS, low)
    acc, highest, total = _attend(
        acc, highest, total, q, q_extra, position, k_ptr, v_ptr, pages_ptr, kv_head, kv_heads, scale, low, high, end,
        False, WINDOW, PAGE, MAIN, EXTRA, VALUE, VALUE_BLOCK, LATENT, WIDEN, KEYS,
    )  # fmt: skip
    acc, highest, total = _attend(
        acc, highest, total, q, q_extra, position, k_ptr, v_ptr, pages_ptr, kv_head, kv_heads, scale, high, end, end,
        True, WINDOW, PAGE, MAIN, EXTRA, VALUE, VALUE_BLOCK, LATENT, WIDEN, KEYS,
    )  # fmt: skip

    # A row may see no key of this range (a window, or a split after its position): it weighs nothing.
    seen = total > 0
    acc = acc * (tl.load(v_scale_ptr + kv_head) / tl.where(seen, total, 1.0))[:, None]
    value = tl.arange(0, VALUE_BLOCK)
    inside = (row < rows)[:, None] & (value < VALUE)[None, :]
    if slot < 0:
        tl.store(out_ptr + q_row[:, None] * VALUE + value[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        part = (slot.to(tl.int64) * kv_heads + kv_head) * ROWS + tl.arange(0, ROWS)
        tl.store(parts_ptr + part[:, None] * VALUE + value[None, :], acc, mask=inside)
        tl.store(lse_ptr + part, tl.where(seen, highest + tl.log2(tl.where(seen, total, 1.0)), _NEVER))


@triton.jit
def _merge_kernel(
    parts_ptr, lse_ptr, merge_ptr, out_ptr, heads, kv_heads,
    GROUP: tl.constexpr, VALUE: tl.constexpr, VALUE_BLOCK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of a split tile: its parts, weighted by 2^(log-sum), over the sum of the weights."""
    item, kv_head, row = merge_ptr + tl.program_id(0) * 5, tl.program_id(1), tl.program_id(2)
    first_token, first_row, rows = tl.load(item), tl.load(item + 1), tl.load(item + 2)
    slot, count = tl.load(item + 3), tl.load(item + 4)
    if first_row + row < rows:
        value = tl.arange(0, VALUE_BLOCK)
        highest, total = -float("inf"), 0.0
        acc = tl.zeros((VALUE_BLOCK,), dtype=tl.float32)
        for first in range(0, count, BLOCK):
            split = first + tl.arange(0, BLOCK)
            part = ((slot + split).to(tl.int64) * kv_heads + kv_head) * ROWS + row
            lse = tl.load(lse_ptr + part, mask=split < count, other=float("-inf"))
            inside = (split < count)[:, None] & (value < VALUE)[None, :]
            parts = tl.load(parts_ptr + part[:, None] * VALUE + value[None, :], mask=inside, other=0.0)
            risen = tl.maximum(highest, tl.max(lse, axis=0))
            weight = tl.exp2(lse - risen)
            shrink = tl.exp2(highest - risen)
            total = total * shrink + tl.sum(weight, axis=0)
            acc = acc * shrink + tl.sum(parts * weight[:, None], axis=0)
            highest = risen
        query = (first_row + row) // GROUP
        head = kv_head * GROUP + (first_row + row) % GROUP
        target = out_ptr + ((first_token + query).to(tl.int64) * heads + head) * VALUE + value
        tl.store(target, (acc / total).to(out_ptr.dtype.element_ty), mask=value < VALUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedCache:
    """Keys [pages, page, kv heads, d] and values [.., v_d] (None: the first v_d elements of the key, MLA's latent).

    ``table`` int32 [sequences, pages of the longest]; scales fp32 [kv heads], applied to what is stored.
    """

    keys: torch.Tensor
    values: torch.Tensor | None
    table: torch.Tensor
    key_scale: torch.Tensor
    value_scale: torch.Tensor


class AttentionBatch:
    """AttentionBatch of one batch of fixed lengths: causal from the lower right, cut by ``window`` (0: none)."""

    def __init__(self, plan: AttentionPlan, *, head_dim: int, v_head_dim: int, device: torch.device) -> None:
        tile = plan.tile
        main = 1 << (head_dim.bit_length() - 1)
        self._plan = plan
        self._v_head_dim = v_head_dim
        self._softmax_scale = _LOG2_E / math.sqrt(head_dim)
        self._merging = {
            "GROUP": plan.group,
            "VALUE": v_head_dim,
            "VALUE_BLOCK": triton.next_power_of_2(v_head_dim),
            "ROWS": tile.rows,
            "enable_fp_fusion": True,  # its default differs between Triton versions
        }
        self._attending = {
            **self._merging,
            "WINDOW": plan.window,
            "MAIN": main,
            "EXTRA": head_dim - main,
            "KEYS": tile.keys,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }
        self._work, self._merge = (
            torch.tensor(items, dtype=torch.int32, device=device) for items in (plan.work, plan.merge)
        )

    def __call__(self, q: torch.Tensor, cache: PagedCache) -> torch.Tensor:
        """Attend q [tokens, heads, d]; returns [tokens, heads, v_d]."""
        heads, kv_heads = self._plan.group * self._plan.kv_heads, self._plan.kv_heads
        out = q.new_empty((len(q), heads, self._v_head_dim))
        lse = q.new_empty((self._plan.slots, kv_heads, self._plan.tile.rows), dtype=torch.float32)
        parts = q.new_empty((*lse.shape, self._v_head_dim), dtype=torch.float32)
        # A pointer the kernel never follows still has to be a tensor.
        _attention_kernel[(len(self._work), kv_heads)](
            q, cache.keys, cache.keys if cache.values is None else cache.values, cache.key_scale, cache.value_scale,
            cache.table, self._work, out, parts, lse, cache.table.shape[1], heads, kv_heads, self._softmax_scale,
            PAGE=cache.keys.shape[1], LATENT=cache.values is None, WIDEN=cache.keys.itemsize == 1, **self._attending,
        )  # fmt: skip
        if self._plan.merge:
            grid = (len(self._merge), kv_heads, self._plan.tile.rows)
            _merge_kernel[grid](parts, lse, self._merge, out, heads, kv_heads, BLOCK=_MERGE_ROWS, **self._merging)
        return out


def prepare_attention(op: OpShape, buffers: Buffers) -> Prepared:
    """Return the launch of one attention call; raises ``Unsupported`` for head sizes the tiles cannot hold."""
    shape, device = op.shape, buffers.device
    lengths_q, lengths_kv = sequence_lengths(op)
    head_dim, v_head_dim, kv_heads = shape["head_dim"], shape["v_head_dim"], shape["num_kv_heads"]
    is_latent = shape["variant"] == "mla" and kv_heads == 1
    main = 1 << (head_dim.bit_length() - 1)
    rest = head_dim - main
    if rest & (rest - 1) or 0 < rest < _LEAST_SIDE or main < _LEAST_SIDE or (is_latent and v_head_dim != main):
        raise Unsupported(f"a head of {head_dim} (values {v_head_dim}) is no sum of two powers of two from 16 on")
    if shape["kv_dtype"] == "fp8":
        require_fp8(device)
    plan = AttentionPlan(
        lengths_q,
        lengths_kv,
        group=shape["num_heads"] // kv_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window=shape["window"],
        processors=multiprocessors(device),
    )
    pages_of, pages = page_table(lengths_kv, _PAGE_TOKENS)
    table = pages_of.to(device)
    keys = buffers.rotating((pages, _PAGE_TOKENS, kv_heads, head_dim), shape["kv_dtype"])
    width = (pages, _PAGE_TOKENS, kv_heads, v_head_dim)
    values = None if is_latent else buffers.rotating(width, shape["kv_dtype"])
    queries = buffers.random((sum(lengths_q), shape["num_heads"], head_dim), op.dtype)
    scale = torch.ones(kv_heads, device=device)
    caches = [
        PagedCache(
            keys=side,
            values=None if values is None else values[i % len(values)],
            table=table,
            key_scale=scale,
            value_scale=scale,
        )
        for i, side in enumerate(keys)
    ]
    attend = AttentionBatch(plan, head_dim=head_dim, v_head_dim=v_head_dim, device=device)
    return Prepared(lambda i: attend(queries, caches[i % len(caches)]), len(caches))
