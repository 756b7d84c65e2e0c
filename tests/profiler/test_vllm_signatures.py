"""The static check of our calls into vLLM, on a made-up package and on real vLLM sources where they are."""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import profiler
from profiler.kernels.vllm_signatures import calls_into_vllm, mismatches

OURS = Path(profiler.__file__).parent
CALLING = [OURS / "kernels/vllm_backend.py", OURS / "kernels/vllm_cpu_backend.py", OURS / "collectives/kernels.py"]


@pytest.fixture
def package(tmp_path):
    """Write a vLLM-like package with a re-export and a class."""
    root = tmp_path / "vllm"
    (root / "ops").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "ops" / "__init__.py").write_text("from .inner import norm as rms_norm\n")
    (root / "ops" / "inner.py").write_text(
        "def norm(out, x, weight, eps=1e-6, *, fused=False):\n    pass\n"
        "class Reduce:\n    def __init__(self, group, device, max_size=1):\n        pass\n"
        "    @staticmethod\n    def sizes(most):\n        pass\n"
        "class Settings:\n    mode: int\n    sizes: list = None\n"
    )
    return root


def check(tmp_path, package, body):
    """Mismatches of one line of code against the package."""
    source = tmp_path / "caller.py"
    source.write_text(
        f"from vllm import ops\nfrom vllm.ops import rms_norm\nfrom vllm.ops.inner import Reduce, Settings\n{body}\n"
    )
    return [str(found) for found in mismatches(calls_into_vllm([source]), package)]


@pytest.mark.parametrize(
    "body",
    [
        "rms_norm(a, b, c)",
        "f(rms_norm)",
        "ops.rms_norm(a, b, weight=c, fused=True)",
        "Reduce(g, d, max_size=8)",
        "rms_norm(*a, **b)",
        "Settings(mode=1)",
        "Reduce.sizes(8)",
    ],
)
def test_calls_that_bind_pass(tmp_path, package, body):
    """Calls Python would accept are no mismatch, through re-exports, modules and constructors."""
    assert check(tmp_path, package, body) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("rms_norm(a, b)", "required parameters not given: weight"),
        ("rms_norm(a, b, c, d, e)", "5 positional arguments, takes 4"),
        ("ops.rms_norm(a, b, c, epsilon=1)", "no parameter named epsilon"),
        ("ops.gone(a)", "no such function or class"),
        ("Reduce(g)", "required parameters not given: device"),
        ("Settings(sizes=[])", "required parameters not given: mode"),
        ("Settings(mode=1, level=2)", "no parameter named level"),
        ("Reduce.gone(8)", "no such function or class"),
        ("from vllm.ops import gone; f(gone)", "no such function or class"),
    ],
)
def test_calls_that_do_not_bind_are_named(tmp_path, package, body, problem):
    """Every way a call can fail to bind is reported with file, line and the parameter."""
    (found,) = check(tmp_path, package, body)
    assert found.startswith("caller.py:4: vllm.ops")
    assert problem in found


def test_our_calls_are_seen():
    """The check sees the calls of both backends and of the custom all-reduce."""
    names = {call.function for call in calls_into_vllm(CALLING)}
    assert {"cutlass_scaled_mm", "flash_attn_varlen_func", "fused_experts", "CustomAllreduce"} <= names
    assert {"get_scheduler_metadata", "is_fa_version_supported", "fp8_w8a8_moe_quant_config"} <= names
    assert {"dispatch_cpu_unquantized_gemm", "cpu_attention_with_kv_cache", "cpu_fused_moe", "RMSNorm"} <= names


@pytest.mark.parametrize(
    ("capability", "head_dim", "known", "version"),
    [
        ((9, 0), 128, {2, 3, 4}, 3),
        ((9, 0), 128, {2}, 2),
        ((8, 0), 128, {2, 3}, 2),
        ((10, 0), 128, {2, 4}, 4),
        ((10, 0), 256, {2, 4}, 2),
        ((10, 0), 128, {2, 3}, 2),
    ],
)
def test_flash_attention_is_of_the_generation_the_engine_picks(capability, head_dim, known, version):
    """Hopper runs the third, Blackwell the fourth where its heads fit, all others the second."""
    pytest.importorskip("torch", reason="the profiler's kernels need torch")
    from profiler.kernels.vllm_backend import flash_version

    def is_supported(generation):
        if generation == 4 and 4 not in known:
            raise ValueError("Unsupported FA version: 4")
        return generation in known

    assert flash_version(capability, head_dim, is_supported) == version


def test_our_calls_bind_to_vllm():
    """Every call we make binds to the signatures of the vLLM that is installed or unpacked at APEX_VLLM_SOURCE."""
    given = os.environ.get("APEX_VLLM_SOURCE")
    try:
        root = Path(given) if given else Path(distribution("vllm").locate_file("vllm"))
    except PackageNotFoundError:
        pytest.skip("vLLM is not installed; set APEX_VLLM_SOURCE to the vllm folder of an unpacked wheel")
    assert [str(found) for found in mismatches(calls_into_vllm(CALLING), root)] == []
