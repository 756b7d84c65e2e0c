"""Attention of torch: one variable-length call of its flash attention on a GPU, SDPA per group on a CPU.

A call covers ``num_prefill`` equal chunks of ``prefill_q`` queries at the end of ``prefill_kv`` keys and ``num_decode``
sequences of ``decode_q`` queries. Where ``decode_kv_max`` exceeds the mean ``decode_kv``, one sequence has the maximum
and the others share the rest equally. Decode with one query packs the query heads of a KV head as rows of one
attention matrix (flash decoding's GQA packing), which needs no mask and no repeated keys.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from cluster_specs.lazy_dataclass import dataclass
from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import Buffers
from profiler.point import OpShape

# Flash attention's paged KV wants pages in multiples of 256 tokens.
PAGE_TOKENS: Final = 256
_FLASH_MAX_HEAD_DIM: Final = 256
_ONE_TOKEN: Final = {"num_prefill": 0, "num_decode": 1, "decode_q": 1, "decode_kv": 1, "decode_kv_max": 1}


def attention_kernels(op: OpShape, device: torch.device) -> Sequence[str]:
    """Return the labels of torch's attention kernels for this op on this device."""
    if op.dtype not in {"bf16", "fp16", "fp32"} or op.shape["kv_dtype"] != op.dtype:
        return ()
    if device.type == "cpu" or op.dtype == "fp32":
        return ("torch.sdpa",)
    if op.shape["head_dim"] > _FLASH_MAX_HEAD_DIM:
        return ()  # torch would write the scores to memory, as no engine does
    if is_windowed_decode(op) and find_spec("triton") is not None:
        return ()
    return ("torch.flash_attention",)


def is_windowed_decode(op: OpShape) -> bool:
    """Whether a call decodes behind a window alone.

    torch's flash attention then neither packs the query heads of a KV head nor splits the keys, as engines' kernels do:
    a kernel of our own stands nearer to theirs.
    """
    return bool(op.shape["window"] and op.shape["num_decode"] and not op.shape["num_prefill"])


def flash_parameters() -> frozenset[str]:
    """Return the parameters this torch's flash attention takes: paged KV came in with 2.12."""
    schema = torch.ops.aten._flash_attention_forward.default._schema  # noqa: SLF001 - see `flash_launch`
    return frozenset(argument.name for argument in schema.arguments)


def decode_lengths(count: int, mean: int, longest: int) -> list[int]:
    """Return ``count`` KV lengths with the given mean and maximum; raises ``Unsupported`` if none exist."""
    if count == 0:
        return []
    if count == 1 or longest == mean:
        return [longest] * count
    rest = (count * mean - longest) / (count - 1)
    if longest < mean or rest < 1:
        raise Unsupported(f"no {count} positive lengths have mean {mean} and maximum {longest}")
    return [longest, *[round(rest)] * (count - 1)]


def prepare_attention(op: OpShape, kernel: str, buffers: Buffers) -> Prepared:
    """Return the launch of one attention call; raises ``Unsupported`` for what the kernel cannot run."""
    shape = op.shape
    sequence_lengths(op)
    if kernel == "torch.flash_attention":
        return _flash(op, buffers)
    launches: list[Prepared] = []
    if shape["num_prefill"]:
        launches.append(_sdpa_chunks(op, shape["num_prefill"], shape["prefill_q"], shape["prefill_kv"], buffers))
    for length, count in _groups(decode_lengths(shape["num_decode"], shape["decode_kv"], shape["decode_kv_max"])):
        launches.append(_sdpa_chunks(op, count, shape["decode_q"], length, buffers))

    def launch(i: int) -> list[object]:
        return [part.launch(i) for part in launches]

    return Prepared(launch, max(part.copies for part in launches))


def _groups(lengths: list[int]) -> list[tuple[int, int]]:
    """Count equal lengths."""
    return [(length, lengths.count(length)) for length in dict.fromkeys(lengths)]


def _sdpa_chunks(op: OpShape, count: int, q: int, kv: int, buffers: Buffers) -> Prepared:
    """``count`` equal sequences of ``q`` queries that end ``kv`` keys."""
    shape = op.shape
    heads, kv_heads, head_dim, window = (
        shape["num_heads"],
        shape["num_kv_heads"],
        shape["head_dim"],
        shape["window"],
    )
    is_latent = shape["variant"] == "mla" and kv_heads == 1
    visible = min(kv, window + q - 1) if window else kv
    # MLA's latent is key and value at once; other values are padded to the key's width, as engines do for flash.
    pairs = buffers.rotating((1 if is_latent else 2, count, kv_heads, visible, head_dim), op.dtype)
    keys, values = [pair[0] for pair in pairs], [pair[-1] for pair in pairs]
    options: dict[str, Any] = {}
    if q == 1:
        queries = buffers.random((count, kv_heads, heads // kv_heads, head_dim), op.dtype)
    else:
        queries = buffers.random((count, heads, q, head_dim), op.dtype)
        options["enable_gqa"] = heads != kv_heads
        if q == visible and not window:
            options["is_causal"] = True
        else:
            options["attn_mask"] = _mask(q, visible, window, buffers.device)
    copies = len(keys)
    return Prepared(
        lambda i: F.scaled_dot_product_attention(queries, keys[i % copies], values[i % copies], **options), copies
    )


def _mask(q: int, kv: int, window: int, device: torch.device) -> torch.Tensor:
    """Lower-right aligned causal mask, cut by the window: query i sits at key kv - q + i."""
    position = torch.arange(kv - q, kv, device=device)[:, None]
    key = torch.arange(kv, device=device)[None, :]
    mask = key <= position
    return mask & (key > position - window) if window else mask


def page_table(lengths_kv: Sequence[int], page_tokens: int) -> tuple[torch.Tensor, int]:
    """Return the pages [sequences, most pages] of each sequence, scattered over a pool, and the pool's size."""
    pages = [math.ceil(length / page_tokens) for length in lengths_kv]
    order = torch.randperm(sum(pages), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    table = torch.zeros((len(pages), max(pages)), dtype=torch.int32)
    for row, (start, count) in enumerate(zip(accumulate(pages[:-1], initial=0), pages, strict=True)):
        table[row, :count] = order[start : start + count]
    return table, sum(pages)


def sequence_lengths(op: OpShape) -> tuple[list[int], list[int]]:
    """Return query and KV lengths of every sequence, prefill chunks first; raises ``Unsupported`` where none fit."""
    shape = op.shape
    if shape["num_heads"] % shape["num_kv_heads"]:
        raise Unsupported(f"{shape['num_heads']} query heads are no multiple of {shape['num_kv_heads']} KV heads")
    if shape["num_prefill"] and shape["prefill_q"] > shape["prefill_kv"]:
        raise Unsupported(f"prefill_q {shape['prefill_q']} exceeds prefill_kv {shape['prefill_kv']}")
    if shape["num_decode"] and shape["decode_q"] > shape["decode_kv"]:
        raise Unsupported(f"decode_q {shape['decode_q']} exceeds decode_kv {shape['decode_kv']}")
    lengths_q = [shape["prefill_q"]] * shape["num_prefill"] + [shape["decode_q"]] * shape["num_decode"]
    lengths_kv = [shape["prefill_kv"]] * shape["num_prefill"]
    lengths_kv += decode_lengths(shape["num_decode"], shape["decode_kv"], shape["decode_kv_max"])
    if not lengths_q:
        raise Unsupported("neither prefill chunks nor decode sequences")
    return lengths_q, lengths_kv


def _flash(op: OpShape, buffers: Buffers) -> Prepared:
    """One flash call over all sequences, paged where torch and its flash attention can."""
    smallest = OpShape.of("attention", dtype=op.dtype, **{**op.shape, **_ONE_TOKEN})
    for gives_offsets in (True, False) if {"block_table", "seqused_k"} <= flash_parameters() else ():
        try:
            probe = Buffers(buffers.device, cold_bytes=1, seed=0)
            flash_launch(smallest, probe, is_paged=True, gives_offsets=gives_offsets).launch(0)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # generations of flash attention differ in whether paged keys have offsets, or pages
            continue
        return flash_launch(op, buffers, is_paged=True, gives_offsets=gives_offsets)
    return flash_launch(op, buffers, is_paged=False)


@dataclass(frozen=True, slots=True)
class FlashCall(Prepared):
    """A flash call with its operands: queries [tokens, heads, d], and keys with values in turn."""

    queries: torch.Tensor
    pairs: list[torch.Tensor]


def flash_launch(op: OpShape, buffers: Buffers, *, is_paged: bool, gives_offsets: bool = True) -> FlashCall:
    """Return one flash call, KV scattered over pages or lying in one piece; raises ``Unsupported``.

    This is the operator below ``torch.nn.attention.varlen.varlen_attn``: the wrapper also clears a random state on the
    device at every call, which would add a launch to each of the decode calls measured here. ``gives_offsets``: whether
    a paged call says where a sequence's keys would begin if they lay in one piece.
    """
    shape, device = op.shape, buffers.device
    lengths_q, lengths_kv = sequence_lengths(op)
    options: dict[str, Any] = {}
    if shape["window"]:
        options = {"window_size_left": shape["window"] - 1, "window_size_right": 0}
    queries = buffers.random((sum(lengths_q), shape["num_heads"], shape["head_dim"]), op.dtype)
    width = (shape["num_kv_heads"], shape["head_dim"])
    if is_paged:
        table, pages = page_table(lengths_kv, PAGE_TOKENS)
        options["block_table"] = table.to(device)
        options["seqused_k"] = torch.tensor(lengths_kv, dtype=torch.int32, device=device)
        pairs = buffers.rotating((2, pages, PAGE_TOKENS, *width), op.dtype)
    else:
        pairs = buffers.rotating((2, sum(lengths_kv), *width), op.dtype)
    cu_q = _offsets(lengths_q, device)
    cu_k = _offsets(lengths_kv, device) if gives_offsets else None
    longest_q, longest_kv, copies = max(lengths_q), max(lengths_kv), len(pairs)
    is_causal = not shape["window"]
    attend = torch.ops.aten._flash_attention_forward  # noqa: SLF001

    def launch(i: int) -> object:
        keys, values = pairs[i % copies]
        sizes = (longest_q, longest_kv, 0.0, is_causal, False)
        return attend(queries, keys, values, cu_q, cu_k, *sizes, **options)[0]

    return FlashCall(launch, copies, queries, pairs)


def _offsets(lengths: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
