"""The CUDA path on a real GPU: kernels against float64, graphs against events, rows of every family."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")

from profiler.backend import Prepared  # noqa: E402 - torch first
from profiler.bench import Bench  # noqa: E402
from profiler.campaign.anchors import anchor_steps  # noqa: E402
from profiler.kernels.attention import PAGE_TOKENS, flash_launch, flash_parameters, page_table  # noqa: E402
from profiler.kernels.buffers import Buffers, cache_bytes  # noqa: E402
from profiler.kernels.cudnn_backend import CUDNN_ATTENTION, FIRST_CAPABILITY, CudnnBackend  # noqa: E402
from profiler.kernels.gemm import prepare_gemm  # noqa: E402
from profiler.kernels.moe import expert_loop, torch_grouped  # noqa: E402
from profiler.machine import Machine  # noqa: E402
from profiler.planning.grid import attention_shape, general_grid  # noqa: E402
from profiler.point import OpShape  # noqa: E402
from profiler.ranks import RankPlace  # noqa: E402
from profiler.request import ProfileRequest  # noqa: E402
from profiler.session import open_bench  # noqa: E402
from profiler.timing import CudaStopwatch, TimingPolicy  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
QUICK = TimingPolicy(warmup_s=0.01, min_s=0.0, max_s=0.05)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Open a bench on the first GPU with short measurements."""
    with Machine.open("cuda", None, RankPlace(), threads=1) as machine:
        yield open_bench(ProfileRequest(db=tmp_path_factory.mktemp("db"), device="cuda", policy=QUICK), machine)


@pytest.fixture
def buffers():
    return Buffers(torch.device("cuda"), cold_bytes=1 << 22, seed=1)


def reference(q, k, v):
    """Causal attention of [q, heads, d] over [kv, kv heads, d], lower-right aligned, in float64."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (t.double().transpose(0, 1) for t in (q, k, v))
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    position = torch.arange(k.shape[1] - q.shape[1], k.shape[1], device=q.device)[:, None]
    hidden = torch.arange(k.shape[1], device=q.device)[None, :] > position
    return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(0, 1)


@pytest.mark.parametrize(
    ("dtype", "scaling"), [("bf16", "none"), ("fp16", "none"), ("fp8", "row"), ("fp8", "tensor"), ("w8a8", "row")]
)
@pytest.mark.parametrize("m", [1, 48])
def test_gemm_formats_run_and_are_finite(buffers, dtype, scaling, m):
    """Every GEMM format gives [at least m, n] finite 16-bit values."""
    op = OpShape.of("gemm", dtype=dtype, m=m, n=256, k=512, scaling=scaling, quantise=True)
    out = prepare_gemm(op, buffers).launch(0)
    assert out.shape[0] >= m
    assert out.shape[1] == 256
    assert bool(torch.isfinite(out.float()).all())


def test_flash_attention_is_causal_from_the_lower_right(buffers):
    """One call over a chunk behind a prefix and decode sequences equals float64 attention of each sequence."""
    op = attention_shape("bf16", (8, 2, 64), prefill=(1, 40, 100), decode=(2, 70, 70))
    call = flash_launch(op, buffers, is_paged=False)
    out, (keys, values) = call.launch(0), call.pairs[0]
    start_q = start_kv = 0
    for q, kv in zip((40, 1, 1), (100, 70, 70), strict=True):
        rows, cells = slice(start_q, start_q + q), slice(start_kv, start_kv + kv)
        expected = reference(call.queries[rows], keys[cells], values[cells])
        assert torch.allclose(out[rows].double(), expected, atol=2e-2)
        start_q, start_kv = start_q + q, start_kv + kv


@pytest.mark.skipif("block_table" not in flash_parameters(), reason="this torch has no paged attention")
def test_paged_attention_equals_attention_over_gathered_pages(buffers):
    """Paged attention reads exactly the pages of the table, up to each sequence's length."""
    op = attention_shape("bf16", (4, 4, 64), decode=(3, 300, 300))
    call = flash_launch(op, buffers, is_paged=True)
    try:
        out = call.launch(0)
    except RuntimeError as error:
        pytest.skip(f"paged attention needs another flash attention: {error}")
    table, _ = page_table([300] * 3, PAGE_TOKENS)
    keys, values = call.pairs[0]
    for sequence in range(3):
        pages = table[sequence].to(keys.device)
        gathered = [side[pages].flatten(0, 1)[:300] for side in (keys, values)]
        expected = reference(call.queries[sequence : sequence + 1], *gathered)
        assert torch.allclose(out[sequence : sequence + 1].double(), expected, atol=2e-2)


def test_torch_grouped_gemm_equals_the_loop_over_experts():
    """Both ways multiply the same rows by the same experts."""
    offsets = torch.tensor([16, 16, 80], dtype=torch.int32, device="cuda")
    x, w = torch.randn(80, 128, device="cuda").bfloat16(), torch.randn(3, 64, 128, device="cuda").bfloat16()
    assert torch.allclose(torch_grouped(offsets)(x, w).float(), expert_loop(offsets)(x, w).float(), atol=0.25)


def test_a_graph_of_copies_takes_the_time_the_events_say():
    """A replayed graph of a large copy is within a fifth of the same copy timed eagerly by events."""
    source = torch.randn(64 << 20, device="cuda")
    target = torch.empty_like(source)
    stopwatch = CudaStopwatch(Prepared(lambda _: target.copy_(source), 1), QUICK, torch.device("cuda"))
    assert stopwatch.launch == "graph"
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        target.copy_(source)
    end.record()
    torch.cuda.synchronize()
    assert stopwatch.sample_s() == pytest.approx(start.elapsed_time(end) * 1e-3 / 20, rel=0.2)


def test_a_kernel_that_cannot_be_captured_is_timed_eagerly():
    """A launch that synchronises with the host falls back to eager timing and says why."""
    value = torch.ones(1, device="cuda")
    stopwatch = CudaStopwatch(Prepared(lambda _: value.sum().item(), 1), QUICK, torch.device("cuda"))
    assert stopwatch.launch == "eager"
    assert "not graph-captured" in stopwatch.note
    assert stopwatch.sample_s() > 0


def test_cold_operands_overflow_the_cache(bench):
    """The footprint cold operands rotate over is several times the last-level cache."""
    assert cache_bytes(bench.device) >= 1 << 20


@pytest.mark.parametrize("family", ["gemm", "attention", "moe", "elementwise"])
def test_the_grid_is_measured_as_graphs(bench, family):
    """A sample of every family's grid ends as ok rows timed as graphs, on every backend that has a kernel."""
    formats = ("bf16", "fp8", "w8a8", "fp8_block", "w8a16", "w4a16", "mxfp4")
    shapes = general_grid("cuda", families=(family,), dtypes=formats)
    points = [
        point
        for op in shapes[:: max(1, len(shapes) // 24)]
        for point in bench.place(op, device_name="gpu", cache="cold")
    ]
    rows = [bench.measure(point)[0] for point in points]
    failed = [
        (str(point), row["status"], row["note"])
        for point, row in zip(points, rows, strict=True)
        if row["status"] != "ok"
    ]
    assert points
    assert not failed


@pytest.mark.parametrize("heads", [(8, 2, 64), (16, 16, 128)])
def test_cudnn_attention_is_causal_attention(bench, heads):
    """Whole prompts, query heads in groups: the result is that of torch's own attention."""
    if torch.cuda.get_device_capability(bench.device) < FIRST_CAPABILITY:
        pytest.skip("cuDNN's attention is measured on Hopper and later")
    op = attention_shape("bf16", heads, prefill=(2, 200, 200))
    call = CudnnBackend().prepare(op, CUDNN_ATTENTION, Buffers(bench.device, cold_bytes=1 << 20, seed=0))
    keys, values = call.sides[0]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(side.float() for side in (call.queries, keys, values)), is_causal=True, enable_gqa=True
    )
    assert torch.allclose(call.launch(0).float(), expected, atol=0.02)


def test_whole_steps_are_captured(bench):
    """The smallest decode step of every format runs as one graph."""
    for step in [step for step in anchor_steps("cuda", ("bf16", "fp8", "w8a8")) if step.shape["num_decode"] == 1]:
        (point,) = bench.place(step, device_name="gpu", cache="cold")
        (row,) = bench.measure(point)
        assert (row["status"], row["launch"]) == ("ok", "graph"), row["note"]


def test_an_impossible_allocation_is_a_row(bench):
    """A GEMM larger than the memory ends as oom and leaves the bench usable."""
    assert isinstance(bench, Bench)
    big = OpShape.of("gemm", dtype="bf16", m=1 << 20, n=1 << 20, k=1 << 14, scaling="none", quantise=False)
    small = OpShape.of("gemm", dtype="bf16", m=8, n=256, k=256, scaling="none", quantise=False)
    rows = [bench.measure(bench.place(op, device_name="gpu", cache="hot")[0])[0] for op in (big, small)]
    assert [row["status"] for row in rows] == ["oom", "ok"]
