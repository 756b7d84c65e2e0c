"""Scans in torch: a prompt in chunks is the recurrence token by token, and a CPU measures both phases."""

import pytest

torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")

from cluster_specs.load import load_cluster  # noqa: E402 - torch first
from costmodel.cost_model import Source  # noqa: E402
from costmodel.fitted_costs import FittedCosts  # noqa: E402
from costmodel.fitting.fit_device import fit_device  # noqa: E402
from profiler.backend import Unsupported  # noqa: E402
from profiler.kernels.buffers import Buffers  # noqa: E402
from profiler.kernels.scan import scan_chunks, scan_operands, scan_steps  # noqa: E402
from profiler.kernels.torch_backend import TorchBackend  # noqa: E402
from profiler.point import OpShape, Point, cost_op  # noqa: E402
from profiles_db.store import open_store  # noqa: E402

CPU = torch.device("cpu")


def scan_shape(variant, *, prefill=(0, 0), decode=(0, 1), dtype="fp32", **changes):
    """(prompts, tokens) or (sequences, queries) of four heads in two groups."""
    sizes = {"num_heads": 4, "num_groups": 2, "head_dim": 16, "state_dim": 32, "chunk": 16, "state_dtype": "fp32"}
    counts = {"num_prefill": prefill[0], "prefill_q": prefill[1], "num_decode": decode[0], "decode_q": decode[1]}
    phase = "prefill" if prefill[0] else "decode"
    return OpShape.of("scan", dtype=dtype, phase=phase, variant=variant, **{**sizes, **counts, **changes})


def buffers():
    return Buffers(CPU, cold_bytes=1 << 14, seed=3)


@pytest.mark.parametrize("chunk", [8, 16, 64])
@pytest.mark.parametrize("variant", ["mamba2", "gated_delta"])
def test_chunks_are_the_recurrence(variant, chunk):
    """Whatever the chunk, a prompt gives the results and leaves the state that its tokens give one by one."""
    inputs, states = scan_operands(scan_shape(variant, prefill=(2, 37)), buffers())
    state, expected_state = states[0].clone(), states[0].clone()
    out = scan_chunks(variant, inputs, state, chunk)
    expected = scan_steps(variant, inputs, expected_state)
    assert torch.allclose(out, expected, atol=1e-4)
    assert torch.allclose(state, expected_state, atol=1e-4)


def test_the_delta_rule_writes_what_it_then_reads():
    """With full strength and no decay the value of the last token is what its key reads."""
    inputs, states = scan_operands(scan_shape("gated_delta", prefill=(1, 5)), buffers())
    inputs.log_decay.zero_()
    inputs.strength.fill_(1.0)
    state = states[0]
    scan_chunks("gated_delta", inputs, state, 4)
    key = inputs.keys[:, -1].repeat_interleave(2, 1)[..., None]
    assert torch.allclose((state @ key)[..., 0], inputs.values[:, -1], atol=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", ["mamba2", "gated_delta"])
@pytest.mark.parametrize(("counts", "rows"), [({"prefill": (3, 20)}, (3, 20)), ({"decode": (5, 2)}, (5, 2))])
def test_a_cpu_runs_both_phases(variant, counts, rows, dtype):
    """A call gives a finite row per token and head, however often it is run on its states."""
    op = scan_shape(variant, dtype=dtype, **counts)
    backend = TorchBackend(CPU)
    assert backend.kernels_for(op) == ("torch.scan",)
    prepared = backend.prepare(op, "torch.scan", buffers())
    for i in range(3):
        out = prepared.launch(i)
    assert out.shape == (*rows, 4, 16)
    assert bool(torch.isfinite(out.float()).all())


def test_no_engine_runs_it_on_a_gpu():
    """Many small kernels are no price of a GPU: there our fused ones stand."""
    assert TorchBackend(torch.device("cuda")).kernels_for(scan_shape("mamba2", decode=(1, 1))) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": 3}, "4 heads are no multiple of 3 groups"),
        ({"num_decode": 2}, "prompts and decode steps are two calls"),
        ({"prefill_q": 0}, "2 sequences of 0 tokens"),
    ],
)
def test_what_is_no_scan_is_unsupported(changes, message):
    """A shape that no layer has becomes a row that says so."""
    with pytest.raises(Unsupported, match=message):
        scan_operands(scan_shape("mamba2", prefill=(2, 8), **changes), buffers())


def test_a_point_is_the_op_it_stands_for():
    """The cost model counts a measured shape as the plan that asked for it."""
    op = cost_op(scan_shape("gated_delta", prefill=(2, 40)))
    assert op is not None
    assert (op.phase, float(op.tokens())) == ("prefill", 80.0)


def test_a_measured_point_is_the_price_of_the_op_it_stands_for(tmp_path):
    """Rows of the profiler's points are what a fit keeps, and the price of the op that a plan asks for."""
    cluster = load_cluster("cpu-2")
    store, device, rows = open_store(tmp_path, bundled=None), cluster.device.name, []
    for sequences in (1, 2, 3, 4, 6, 8):
        op = scan_shape("mamba2", decode=(sequences, 1))
        point = Point(op=op, device=device, backend="torch.scan", launch="eager", cache="cold")
        rows.append({**point.columns, "status": "ok", "latency_s": 1e-5 * (2 + sequences), "origin": "measured"})
    store.append("scan", rows, "run-1")
    costs = FittedCosts(fit_device(store, device, cluster), cluster)
    found = costs.predict(cost_op(scan_shape("mamba2", decode=(4, 1))))
    assert int(found.source) == Source.MEASURED
    assert float(found.latency_s) == rows[3]["latency_s"]
