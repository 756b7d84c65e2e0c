"""Our Triton attention against float64; `test_triton_kernels.py` runs this file.

The interpreter multiplies bf16 as raw integers: there queries and caches are fp16 or e4m3.
"""

import math

import pytest
import torch

from profiler.kernels.attention import page_table
from profiler.kernels.attention_plan import AttentionPlan
from profiler.kernels.buffers import Buffers
from profiler.kernels.triton_attention import AttentionBatch, PagedCache
from profiler.kernels.triton_backend import TritonBackend
from profiler.planning.grid import attention_shape
from profiler.point import OpShape

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
PAGE = 16


def reference(q, keys, values, window):
    """Causal attention of [q, heads, d] over [kv, kv heads, d], lower-right aligned, cut by the window."""
    group = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q.double(), keys) / math.sqrt(q.shape[-1])
    position = torch.arange(len(keys) - len(q), len(keys), device=q.device)[:, None]
    key = torch.arange(len(keys), device=q.device)[None, :]
    hidden = key > position
    if window:
        hidden |= key <= position - window
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), values)


CASES = {
    "decode, ragged": ([1, 1, 1], [70, 300, 5], (8, 2, 64, 64), 0),
    "decode, split over programs": ([1, 1], [1100, 40], (8, 2, 64, 64), 0),
    "decode, window inside one program": ([1, 1], [600, 40], (8, 2, 64, 64), 100),
    "decode, split window": ([1], [900], (8, 2, 64, 64), 700),
    "drafts": ([3], [300], (6, 2, 96, 96), 0),
    "chunk behind a prefix, with decode": ([40, 1], [100, 300], (8, 2, 64, 64), 0),
    "chunk shorter than its window": ([100], [100], (2, 2, 64, 64), 30),
    "several tiles, window": ([70], [300], (4, 2, 64, 64), 70),
    "keys wider than values": ([3], [300], (6, 6, 192, 128), 0),
    "latent": ([1, 2], [300, 90], (16, 1, 576, 512), 0),
}


@pytest.mark.parametrize("kv_dtype", [torch.float16, torch.float8_e4m3fn] + [torch.bfloat16] * HAS_GPU, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_attention_equals_float64(case, kv_dtype):
    """Pages, tiles, splits, masks and scales of every kind of batch give attention over what the cache stands for."""
    lengths_q, lengths_kv, (heads, kv_heads, head_dim, v_head_dim), window = CASES[case]
    generator = torch.Generator().manual_seed(0)
    table, pages = page_table(lengths_kv, PAGE)
    width = (pages, PAGE, kv_heads)
    half = torch.bfloat16 if kv_dtype == torch.bfloat16 else torch.float16
    queries = torch.randn((sum(lengths_q), heads, head_dim), generator=generator).to(half).to(DEVICE)
    keys = torch.randn((*width, head_dim), generator=generator).to(kv_dtype).to(DEVICE)
    values = None
    if case != "latent":
        values = torch.randn((*width, v_head_dim), generator=generator).to(kv_dtype).to(DEVICE)
    key_scale, value_scale = (torch.rand(kv_heads, generator=generator).to(DEVICE) + 0.5 for _ in range(2))
    plan = AttentionPlan(
        lengths_q,
        lengths_kv,
        group=heads // kv_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window=window,
        processors=132,
    )
    cache = PagedCache(keys=keys, values=values, table=table.to(DEVICE), key_scale=key_scale, value_scale=value_scale)
    out = AttentionBatch(plan, head_dim=head_dim, v_head_dim=v_head_dim, device=DEVICE)(queries, cache)
    assert ("split" in case) == bool(plan.merge) or "split" not in case
    start = 0
    for sequence, (q, kv) in enumerate(zip(lengths_q, lengths_kv, strict=True)):
        mine = table[sequence][: -(-kv // PAGE)].to(DEVICE)
        k = keys[mine].flatten(0, 1)[:kv].double() * key_scale.double()[:, None]
        v = (keys[..., :v_head_dim] if values is None else values)[mine].flatten(0, 1)[:kv].double()
        expected = reference(queries[start : start + q], k, v * value_scale.double()[:, None], window)
        limit = 2e-3 if half == torch.float16 else 2e-2
        assert torch.allclose(out[start : start + q].double(), expected, atol=limit)
        start += q


@pytest.mark.parametrize("window", [0, 90])
@pytest.mark.parametrize("processors", [1, 132])
def test_a_plan_covers_every_visible_key_once(window, processors):
    """Of every tile the ranges follow each other from the first key its rows see to the last, whatever the split."""
    lengths_q, lengths_kv, group = [1, 50, 7], [2000, 1300, 7], 4
    plan = AttentionPlan(
        lengths_q, lengths_kv, group=group, kv_heads=2, head_dim=64, window=window, processors=processors
    )
    covered = {}
    for sequence, _, row, rows, begin, end, prefix, _ in sorted(plan.work, key=lambda item: item[4]):
        assert rows == lengths_q[sequence] * group
        assert prefix == lengths_kv[sequence] - lengths_q[sequence]
        first, last = covered.setdefault((sequence, row), (begin, begin))
        assert last == begin
        covered[sequence, row] = (first, end)
    assert len(covered) == sum(-(-q * group // plan.tile.rows) for q in lengths_q)
    for (sequence, row), (first, end) in covered.items():
        prefix = lengths_kv[sequence] - lengths_q[sequence]
        last_query = min(row + plan.tile.rows, lengths_q[sequence] * group) - 1
        assert end == prefix + last_query // group + 1
        assert first == (max(0, prefix + row // group - window + 1) if window else 0)
    slots = [slot for *_, slot in plan.work if slot >= 0]
    assert sorted(slots) == list(range(plan.slots))


@pytest.mark.parametrize(("kv_dtype", "variant", "heads"), [("fp8", "gqa", (8, 2, 64)), ("fp16", "mla", (16, 1, 576))])
def test_backend_runs_what_torch_has_no_kernel_for(kv_dtype, variant, heads):
    """FP8 KV and MLA are ours, and give one row per query token and head."""
    columns = attention_shape("fp16", heads, decode=(3, 60, 80)).shape
    v_head_dim = 512 if variant == "mla" else heads[2]
    columns |= {"kv_dtype": kv_dtype, "variant": variant, "v_head_dim": v_head_dim}
    op = OpShape.of("attention", dtype="fp16", **columns)
    assert TritonBackend().kernels_for(op) == ("triton",)
    out = TritonBackend().prepare(op, "triton", Buffers(DEVICE, cold_bytes=1 << 14, seed=5)).launch(1)
    assert out.shape == (3, heads[0], v_head_dim)
    assert bool(torch.isfinite(out.float()).all())
