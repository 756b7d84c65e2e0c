"""A GPU without vLLM can measure what plans ask for: every compute op of their manifests has a kernel."""

import pytest

torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")
pytest.importorskip("triton", reason="Triton is not installed")

from profiler.kernels.torch_backend import TorchBackend  # noqa: E402 - torch first
from profiler.kernels.triton_backend import TritonBackend  # noqa: E402
from profiler.point import COLLECTIVE_FAMILIES, OpShape  # noqa: E402
from profiles_db.manifest import load_manifest  # noqa: E402


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        ("deepseek-v3", "tp8-kv.fp8"),  # block FP8, MLA, experts
        ("llama-3.1-70b", "tp4-w.fp8-kv.fp8"),
        ("llama-3.1-8b", "tp1-w.w4a16"),
        ("mixtral-8x7b", "tp2-w.w8a8"),
        ("gpt-oss-120b", "tp4"),  # MXFP4 experts, 720 wide
        ("nemotron-h-8b", "tp2"),  # state-space layers
        ("qwen3.5-27b", "tp2"),  # the gated delta rule
    ],
)
def test_every_op_of_a_plan_has_a_kernel(run_apex, tmp_path, model, plan):
    """Torch's kernels and our own leave no compute op of the plan unmeasured."""
    path = tmp_path / "manifest.json"
    steps = ["--max-num-seqs", "8", "--max-num-batched-tokens", "64", "--max-model-len", "256"]
    command = ["shapes", "--model", model, "--plan", plan, "--cluster", "h200-sxm-8", *steps, "-o", str(path)]
    assert run_apex(*command).returncode == 0
    backends = [TorchBackend(torch.device("cuda")), TritonBackend()]
    left_out = {
        (family, op.dtype, op.shape.get("op"))
        for family, table in load_manifest(path).tables.items()
        if family not in COLLECTIVE_FAMILIES
        for op in (OpShape.of(family, **row) for row in table.to_pylist())
        if not any(backend.kernels_for(op) for backend in backends)
    }
    assert left_out == set()
