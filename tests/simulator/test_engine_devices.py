"""`runs on` knows the device: an engine that has no build or no kernels for it is not named, and gets no command."""

import pytest

from cluster_specs.load import bundled_devices, load_device
from simulator.engine_devices import device_refusal
from simulator.engine_profile import load_profile
from simulator.engine_support import ENGINES, engines_for
from simulator.model.bundled import load_model
from simulator.plan import parse_plan


@pytest.mark.parametrize(
    ("device", "plan", "runs"),
    [
        ("h100-sxm", "tp1", {"vllm", "sglang", "tensorrt-llm"}),
        ("mi300x", "tp1", {"vllm", "sglang"}),
        ("mi300x", "tp1-w.fp8-kv.fp8", {"vllm", "sglang"}),
        ("mi355x", "tp1-w.nvfp4", set()),
        ("mi300x", "tp1-w.w8a16", set()),
        ("b200", "tp1-w.nvfp4", {"vllm", "sglang", "tensorrt-llm"}),
        ("cpu", "tp1", {"vllm", "sglang"}),
        ("cpu", "tp1-kv.fp8", {"vllm"}),
        ("v100-sxm2", "tp1-w.fp16", set()),
        ("a100-sxm-80gb", "tp1-kv.fp8", {"vllm", "sglang"}),
        ("a100-sxm-80gb", "tp1-w.mxfp4", {"vllm", "sglang"}),
    ],
)
def test_engines_run_on_the_devices_they_are_built_for(device: str, plan: str, runs: set[str]) -> None:
    """TensorRT-LLM is NVIDIA's from Ampere on; formats run where the engine has kernels for that platform."""
    answers = engines_for(load_model("llama-3.1-8b"), parse_plan(plan), load_device(device))
    assert {engine for engine, reason in answers.items() if reason is None} == runs


@pytest.mark.parametrize(("device", "engine"), [(device, engine) for device in bundled_devices() for engine in ENGINES])
def test_a_refusal_names_engine_and_device(device: str, engine: str) -> None:
    """Every reason says who cannot do what, for any bundled device and format."""
    spec = load_device(device)
    for scheme in ("bf16", "fp8", "w8a8", "w4a16", "w4a8", "mxfp4", "nvfp4"):
        for kv_dtype in (None, "fp8"):
            reason = device_refusal(engine, spec, scheme=scheme, kv_dtype=kv_dtype)
            assert reason is None or (reason.startswith(engine) and len(reason) < 120)


@pytest.mark.parametrize(
    ("engine", "device", "plan", "reason"),
    [
        ("vllm-0.6", "v100-sxm2", "tp1-w.fp16", None),
        ("vllm-0.18", "v100-sxm2", "tp1-w.fp16", None),
        ("vllm-0.33", "v100-sxm2", "tp1-w.fp16", "vllm needs compute capability 7.5, v100-sxm2 has 7.0"),
        ("vllm-0.6", "b200", "tp1", "vllm 0.6 has no kernels for blackwell devices such as b200"),
        ("vllm-0.6", "h100-sxm", "tp1-w.mxfp4", "vllm 0.6 does not run mxfp4 weights"),
        ("vllm-0.10", "h100-sxm", "tp1-w.mxfp4", None),
    ],
)
def test_a_version_runs_on_what_it_was_built_for(engine: str, device: str, plan: str, reason: str | None) -> None:
    """The engine simulated is taken in its own version: V0 engines know Volta, neither Blackwell nor 4-bit floats."""
    spec, model = load_device(device), load_model("llama-3.1-8b")
    assert engines_for(model, parse_plan(plan), spec, load_profile(engine))["vllm"] == reason


def test_a_device_of_an_unknown_vendor_gets_no_engine() -> None:
    """Nothing is claimed for hardware nobody here knows an engine for."""
    spec = load_device("h100-sxm").model_copy(update={"vendor": "acme", "name": "acme-1"})
    answers = engines_for(load_model("llama-3.1-8b"), parse_plan("tp1"), spec)
    assert answers["vllm"] == "vllm is not known to run on acme devices such as acme-1"
    assert all(answers.values())
