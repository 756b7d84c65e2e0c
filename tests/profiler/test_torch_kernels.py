"""What the torch kernels compute, against float64 references over the very operands they were given."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")

from costmodel.ops.op_types import Moe  # noqa: E402 - torch first
from profiler.backend import Unsupported  # noqa: E402
from profiler.kernels.attention import decode_lengths, prepare_attention  # noqa: E402
from profiler.kernels.buffers import Buffers  # noqa: E402
from profiler.kernels.gemm import prepare_gemm  # noqa: E402
from profiler.kernels.moe import ExpertShard, expert_loop, prepare_moe, torch_grouped  # noqa: E402
from profiler.kernels.quantise import fp8_group, fp8_row, fp8_tensor, int8_row, int8_tensor  # noqa: E402
from profiler.kernels.routing import route  # noqa: E402
from profiler.kernels.step_backend import LABEL, StepBackend  # noqa: E402
from profiler.kernels.step_ops import step_shape  # noqa: E402
from profiler.kernels.torch_backend import TorchBackend  # noqa: E402
from profiler.planning.grid import attention_shape  # noqa: E402
from profiler.point import OpShape  # noqa: E402

CPU = torch.device("cpu")


class RecordingBuffers(Buffers):
    """Remembers every operand it hands out."""

    def __init__(self) -> None:
        super().__init__(CPU, cold_bytes=1 << 16, seed=3)
        self.given = []

    def random(self, shape, dtype):
        """Record one tensor."""
        tensor = super().random(shape, dtype)
        self.given.append(tensor)
        return tensor

    def rotating(self, shape, dtype, *, read_frac=1.0):
        """Record one set of views."""
        views = super().rotating(shape, dtype, read_frac=read_frac)
        self.given.append(views)
        return views

    def last(self, shape):
        """Return the last operand (or set of views) of this shape."""
        found = [t for t in self.given if (t[0].shape if isinstance(t, list) else t.shape) == torch.Size(shape)]
        return found[-1]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def gemm(dtype, *, scaling="none", quantise=False, m=5, n=32, k=64):
    return OpShape.of("gemm", dtype=dtype, m=m, n=n, k=k, scaling=scaling, quantise=quantise)


def reference_attention(q, k, v, window=0):
    """Causal attention of [heads, q, d] over [heads, kv, d], lower-right aligned, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    position = torch.arange(k.shape[1] - q.shape[1], k.shape[1])[:, None]
    key = torch.arange(k.shape[1])[None, :]
    hidden = key > position
    if window:
        hidden |= key <= position - window
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2), ("fp16", 5e-3)])
def test_plain_gemm_multiplies_by_the_weights_of_the_turn(dtype, tolerance):
    """Launch i computes A W_i^T with the i-th rotating weight."""
    buffers = RecordingBuffers()
    prepared = prepare_gemm(gemm(dtype), buffers)
    activation, weights = buffers.last((5, 64)), buffers.last((32, 64))
    assert prepared.copies == len(weights) > 1
    for turn in (0, 1):
        expected = activation.double() @ weights[turn].double().T
        assert torch.allclose(prepared.launch(turn).double(), expected, rtol=tolerance, atol=tolerance * 8)


@pytest.mark.parametrize("scaling", ["tensor", "row"])
@pytest.mark.parametrize("quantise", [False, True])
def test_fp8_gemm_is_the_scaled_product_of_quantised_operands(scaling, quantise):
    """FP8 results are the float64 product of the dequantised activations and weights, within bf16 rounding."""
    buffers = RecordingBuffers()
    prepared = prepare_gemm(gemm("fp8", scaling=scaling, quantise=quantise), buffers)
    source, weight = buffers.last((5, 64)), buffers.last((32, 64))[0]
    quantised, scale = (fp8_tensor if scaling == "tensor" else fp8_row)(source)
    expected = (quantised.double() * scale.double()) @ weight.double().T * 0.01
    assert torch.allclose(prepared.launch(0).double(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("quantise", [False, True])
def test_w8a8_gemm_dequantises_the_integer_product(quantise):
    """W8A8 results are the exact integer product times both scales, within bf16 rounding."""
    buffers = RecordingBuffers()
    prepared = prepare_gemm(gemm("w8a8", scaling="row", quantise=quantise), buffers)
    source, weight = buffers.last((5, 64)), buffers.last((32, 64))[0]
    quantised, scale = int8_row(source)
    expected = (quantised.double() @ weight.double().T) * scale.double() * 0.01
    assert torch.allclose(prepared.launch(0).double(), expected, rtol=1e-2, atol=1e-2)


def test_weight_only_int8_gemm_scales_each_output_column():
    """W8A16 results are the product with the dequantised weights."""
    buffers = RecordingBuffers()
    prepared = prepare_gemm(gemm("w8a16", scaling="row"), buffers)
    expected = buffers.last((5, 64)).double() @ buffers.last((32, 64))[0].double().T * 0.01
    assert torch.allclose(prepared.launch(0).double(), expected, rtol=2e-2, atol=5e-2)


def test_weight_only_int4_gemm_runs_on_packed_tiles():
    """W4A16 runs where n and k fill the packed tiles and returns [m, n]."""
    prepared = prepare_gemm(gemm("w4a16", scaling="group128", n=64, k=128), RecordingBuffers())
    assert prepared.launch(0).shape == (5, 64)


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (gemm("fp8", scaling="row", n=33), "multiples of 16"),
        (gemm("fp8", scaling="group128"), "group128"),
        (gemm("bf16", m=0), "m=0"),
        (gemm("w4a16", scaling="group128", k=64), "k=64"),
    ],
)
def test_shapes_a_kernel_refuses_are_named(op, words):
    """A shape the kernel cannot run is refused with the size that is wrong."""
    with pytest.raises(Unsupported, match=words):
        prepare_gemm(op, RecordingBuffers())


@pytest.mark.parametrize("quantise", [fp8_tensor, fp8_row, fp8_group, int8_row, int8_tensor])
def test_quantisation_is_within_half_a_step(quantise):
    """Dequantised values differ from the source by at most half a step of the format at that magnitude."""
    x = torch.randn(6, 256, generator=torch.Generator().manual_seed(0))
    quantised, scale = quantise(x)
    spread = scale.repeat_interleave(128, dim=1) if quantise is fp8_group else scale
    error = (quantised.double() * spread.double() - x.double()).abs()
    # int8: half of one scale; e4m3: 3 mantissa bits, so a sixteenth of the value, half a subnormal step at least.
    limit = spread.double() / 2 if quantised.dtype == torch.int8 else x.double().abs() / 16 + spread.double() * 2**-10
    assert bool((error <= limit * 1.001).all())


@pytest.mark.parametrize(("q", "kv", "window"), [(8, 8, 0), (4, 12, 0), (8, 8, 3), (3, 12, 5)])
def test_prefill_attention_is_causal_from_the_lower_right(q, kv, window):
    """A chunk of q queries at the end of kv keys sees the keys before it, cut by the window, under GQA."""
    buffers = RecordingBuffers()
    op = attention_shape("fp32", (4, 2, 16), prefill=(2, q, kv), window=window)
    visible = min(kv, window + q - 1) if window else kv
    (out,) = prepare_attention(op, "torch.sdpa", buffers).launch(0)
    queries, pair = buffers.last((2, 4, q, 16)), buffers.last((2, 2, 2, visible, 16))[0]
    for chunk in range(2):
        keys, values = (side[chunk].repeat_interleave(2, dim=0) for side in pair)
        expected = reference_attention(queries[chunk], keys, values, window)
        assert torch.allclose(out[chunk].double(), expected, atol=1e-5)


def test_decode_attention_packs_query_heads_by_kv_head():
    """One query per sequence sees all keys; head h uses KV head h // group."""
    buffers = RecordingBuffers()
    op = attention_shape("fp32", (6, 2, 16), decode=(3, 10, 10))
    (out,) = prepare_attention(op, "torch.sdpa", buffers).launch(0)
    queries, pair = buffers.last((3, 2, 3, 16)), buffers.last((2, 3, 2, 10, 16))[0]
    for sequence in range(3):
        for head in range(6):
            group, member = divmod(head, 3)
            expected = reference_attention(
                queries[sequence, group, member][None, None], *(side[sequence, group][None] for side in pair)
            )
            assert torch.allclose(out[sequence, group, member].double(), expected[0, 0], atol=1e-5)


def test_mixed_batch_runs_prefill_and_every_decode_length():
    """A mixed call covers the chunk, the longest sequence and the shorter ones."""
    op = attention_shape("fp32", (2, 1, 16), prefill=(1, 4, 4), decode=(3, 8, 12))
    shapes = [part.shape for part in prepare_attention(op, "torch.sdpa", RecordingBuffers()).launch(0)]
    assert shapes == [(1, 2, 4, 16), (1, 1, 2, 16), (2, 1, 2, 16)]


def test_latent_attention_reads_its_cache_once():
    """MLA decode uses one latent tensor as key and value."""
    op = OpShape.of(
        "attention", dtype="fp32", **(attention_shape("fp32", (8, 1, 24), decode=(2, 6, 6)).shape | {"variant": "mla"})
    )
    buffers = RecordingBuffers()
    (out,) = prepare_attention(op, "torch.sdpa", buffers).launch(0)
    queries, latent = buffers.last((2, 1, 8, 24)), buffers.last((1, 2, 1, 6, 24))[0][0]
    scores = (queries.double() @ latent.double().transpose(-2, -1) / math.sqrt(24)).softmax(-1)
    assert torch.allclose(out.double(), scores @ latent.double(), atol=1e-5)


@pytest.mark.parametrize(("count", "mean", "longest"), [(1, 5, 5), (4, 10, 10), (4, 10, 22), (8, 100, 400)])
def test_decode_lengths_keep_mean_and_maximum(count, mean, longest):
    """The lengths of a straggler batch have the asked maximum and the asked mean up to rounding."""
    lengths = decode_lengths(count, mean, longest)
    assert max(lengths) == longest
    assert abs(sum(lengths) / count - mean) <= 0.5


@pytest.mark.parametrize(("count", "mean", "longest"), [(2, 10, 5), (2, 10, 30)])
def test_impossible_decode_lengths_are_refused(count, mean, longest):
    """A maximum below the mean, or one that leaves nothing for the rest, is refused."""
    with pytest.raises(Unsupported, match=f"mean {mean} and maximum {longest}"):
        decode_lengths(count, mean, longest)


@pytest.mark.parametrize("routing", ["balanced", "power_law_1.2"])
def test_router_picks_distinct_experts(routing):
    """Every token gets topk different experts."""
    ids = route(200, 16, 4, routing, seed=1, device=CPU)
    assert all(len(set(row)) == 4 for row in ids.tolist())


def test_routing_skew_follows_its_name():
    """Balanced routing loads all experts alike; a power law loads the busiest several times the mean."""
    balanced = torch.bincount(route(512, 16, 2, "balanced", seed=1, device=CPU).flatten(), minlength=16)
    skewed = torch.bincount(route(512, 16, 2, "power_law_1.2", seed=1, device=CPU).flatten(), minlength=16)
    assert int(balanced.max() - balanced.min()) <= 1
    assert int(skewed.max()) > 3 * int(skewed.float().mean())


@pytest.mark.parametrize(("tp", "ep"), [(1, 1), (2, 1), (1, 4)])
def test_expert_layer_is_the_weighted_sum_of_its_local_experts(tp, ep):
    """A rank's result is the sum over the local experts a token is routed to, each a SwiGLU of its shard."""
    buffers = RecordingBuffers()
    op = OpShape.of(
        "moe", dtype="fp32", num_tokens=7, hidden=16, inter=24, num_experts=8, topk=2, tp=tp, ep=ep, routing="balanced"
    )
    out = prepare_moe(op, "torch.expert_loop", buffers).launch(0)
    local, inter = 8 // ep, 24 // tp
    tokens = buffers.last((7, 16)).double()
    gate_up = buffers.last((local, 2 * inter, 16))[0].double()
    down = buffers.last((local, 16, inter))[0].double()
    expected = torch.zeros_like(tokens)
    for token, experts in enumerate(route(7, 8, 2, "balanced", seed=0, device=CPU, ep=ep).tolist()):
        for expert in (e for e in experts if e < local):
            gate, up = (gate_up[expert] @ tokens[token]).chunk(2)
            expected[token] += down[expert] @ (torch.nn.functional.silu(gate) * up) / 2
    assert torch.allclose(out.double(), expected, atol=1e-3)


def test_torch_grouped_gemm_equals_the_loop():
    """Torch's grouped GEMM and the loop over experts multiply the same rows by the same experts."""
    offsets = torch.tensor([8, 8, 24], dtype=torch.int32)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(24, 32, generator=generator).bfloat16()
    w = torch.randn(3, 16, 32, generator=generator).bfloat16()
    assert torch.allclose(torch_grouped(offsets)(x, w).float(), expert_loop(offsets)(x, w).float(), atol=0.1)


@pytest.mark.parametrize("sizes", [(256, 8, 8), (128, 8, 8), (128, 4, 8), (8, 2, 4), (64, 4, 1)])
@pytest.mark.parametrize("num_tokens", [1, 16, 300, 2000])
def test_a_skewed_rank_has_no_fewer_pairs_than_a_balanced_one(sizes, num_tokens):
    """The rank that a step waits for is measured: it has a mean rank's pairs at least, rounded up as balanced ones."""
    num_experts, topk, ep = sizes
    shape = {"hidden": 64, "inter": 64, "num_experts": num_experts, "topk": topk, "tp": 1, "ep": ep}
    pairs = {}
    for routing in ("balanced", "power_law_1.2"):
        op = OpShape.of("moe", dtype="bf16", num_tokens=num_tokens, routing=routing, **shape)
        pairs[routing] = len(ExpertShard.of(op, CPU).tokens)
    assert pairs["power_law_1.2"] >= pairs["balanced"] == -(-num_tokens * topk // ep)


@pytest.mark.parametrize("sizes", [(256, 8, 8), (128, 4, 8), (8, 2, 4), (64, 4, 1)])
@pytest.mark.parametrize("routing", ["balanced", "power_law_1.01", "power_law_1.2"])
def test_the_rank_that_is_measured_is_the_one_that_is_priced(sizes, routing):
    """Pairs of many tokens and experts of few tokens are those that the op counts, within what draws scatter."""
    num_experts, topk, ep = sizes
    shape = {"hidden": 64, "inter": 64, "num_experts": num_experts, "topk": topk, "tp": 1, "ep": ep}
    for num_tokens, spread in ((4000, 0.05), (64, 0.3)):
        shard = ExpertShard.of(OpShape.of("moe", dtype="bf16", num_tokens=num_tokens, routing=routing, **shape), CPU)
        op = Moe(num_tokens=num_tokens, routing=routing, **shape)
        assert len(shard.tokens) == pytest.approx(float(op.routed_tokens()), rel=spread)
        hit = len(torch.diff(shard.offsets, prepend=torch.zeros(1)).nonzero())
        assert hit == pytest.approx(float(op.active_experts()), rel=spread)


@pytest.mark.parametrize("num_tokens", [2, 3, 8, 16, 64])
def test_a_routing_of_few_tokens_reaches_a_usual_number_of_experts(num_tokens):
    """Uniform draws without replacement reach E (1 - (1 - k / E)^tokens) experts in the mean."""
    ids = route(num_tokens, 64, 4, "power_law_0.0", seed=0, device=CPU)
    assert abs(len(ids.unique()) - 64 * (1 - (1 - 4 / 64) ** num_tokens)) <= 1


@pytest.mark.parametrize(("num_tokens", "read"), [(1, 2), (64, 8)])
def test_experts_without_tokens_do_not_make_the_others_cold(num_tokens, read):
    """What the calls of one round read overflows the cache, also where most experts have no token."""
    buffers = RecordingBuffers()
    shape = {"hidden": 32, "inter": 32, "num_experts": 8, "topk": 2, "tp": 1, "ep": 1, "routing": "power_law_0.0"}
    prepare_moe(OpShape.of("moe", dtype="fp32", num_tokens=num_tokens, **shape), "torch.expert_loop", buffers)
    down = buffers.last((8, 32, 32))
    one_expert = down[0][0].nbytes
    assert len(down) * read * one_expert >= buffers.cold_bytes > (len(down) - 1) * read * one_expert


def test_hot_operands_stay_cold_ones_walk():
    """Hot mode hands out one buffer, cold mode enough distinct ones to exceed the footprint."""
    buffers = Buffers(CPU, cold_bytes=10_000, seed=0)
    cold = buffers.rotating((16, 16), "fp32")
    assert len({view.data_ptr() for view in cold}) == len(cold) == 10
    buffers.begin(is_cold=False)
    assert len(buffers.rotating((16, 16), "fp32")) == 1


def test_operands_of_one_point_share_no_memory():
    """Two cold operands of a point lie apart; the next point starts over in the same regions."""
    buffers = Buffers(CPU, cold_bytes=4096, seed=0)
    buffers.begin(is_cold=True)
    first, second = buffers.rotating((8, 8), "bf16"), buffers.rotating((16, 8), "bf16")
    ends = {id(views): (views[0].data_ptr(), views[-1].data_ptr() + views[-1].nbytes) for views in (first, second)}
    (low, low_end), (high, _) = sorted(ends.values())
    assert low < low_end <= high
    starts = {first[0].data_ptr(), second[0].data_ptr()}
    buffers.begin(is_cold=True)
    assert {buffers.rotating((8, 8), "bf16")[0].data_ptr() for _ in range(2)} == starts


def test_kept_regions_are_those_of_the_largest_point():
    """Growing points replace the regions of smaller ones; memory is that of the largest point, not of all."""
    buffers = Buffers(CPU, cold_bytes=4096, seed=0)
    for side in (8, 32, 128, 64):
        buffers.begin(is_cold=True)
        taken = [buffers.rotating((side, side), "fp32") for _ in range(2)]
        assert len(taken[0]) == max(1, 4096 // (side * side * 4))
    buffers.begin(is_cold=True)
    assert buffers.kept_bytes == 2 * 128 * 128 * 4


def test_a_step_overflows_the_cache_as_a_whole():
    """The parts of a cold step rotate over the same number of buffer sets: together they fill the cold footprint."""
    step = step_shape("llama-3.2-1b", dtype="bf16", tp=4, layers=2, decode=(2, 16))
    buffers = Buffers(CPU, cold_bytes=200 << 20, seed=0)
    buffers.begin(is_cold=True)
    prepared = StepBackend([TorchBackend(CPU)]).prepare(step, LABEL, buffers)
    assert 200 << 20 <= buffers.taken_bytes < 300 << 20
    prepared.launch(prepared.copies - 1)
