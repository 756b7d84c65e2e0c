"""`runs on` knows the device: an engine that has no build or no kernels for it is not named, and gets no command."""

from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import bundled_devices, load_device
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.engine_devices import device_refusal
from simulator.feasible.engine_support import ENGINES, engines_for, newest_profile
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan


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
            newest = newest_profile(engine)
            reason = device_refusal(newest, spec, scheme=scheme, kv_dtype=kv_dtype, newest=newest)
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


@pytest.mark.parametrize(
    ("built_for", "device", "reason"),
    [
        ("least_capability = 9.0", "a100-sxm-80gb", "vllm needs compute capability 9.0, a100-sxm-80gb has 8.0"),
        ("below_capability = 10.0", "b200", "vllm 0.33 has no kernels for blackwell devices such as b200"),
        ('nvidia_formats = ["bf16"]', "h100-sxm", "vllm 0.33 does not run fp8 weights"),
        ("least_by_format = { fp8 = 10.0 }", "h100-sxm", "vllm runs fp8 weights from compute capability 10.0 on"),
        ('amd_formats = ["bf16"]', "mi300x", "vllm has no kernel for fp8 weights on AMD devices"),
        ('cpu_formats = ["bf16"]', "cpu", "vllm has no kernel for fp8 weights on CPUs"),
    ],
)
def test_a_profile_of_ones_own_says_what_it_was_built_for(
    tmp_path: Path, built_for: str, device: str, reason: str
) -> None:
    """A changed key of ``built_for`` refuses what it leaves out, and the other engines stay as they are."""
    path = tmp_path / "ours.toml"
    path.write_text(f'schema = 1\nname = "ours"\nextends = "vllm-0.33"\n[built_for]\n{built_for}\n')
    model, plan, spec = load_model("llama-3.1-8b"), parse_plan("tp1-w.fp8"), load_device(device)
    bundled, ours = (engines_for(model, plan, spec, load_profile(name)) for name in ("vllm-0.33", str(path)))
    assert bundled["vllm"] is None
    assert (ours.pop("vllm") or "").startswith(reason)
    assert ours == {engine: answer for engine, answer in bundled.items() if engine != "vllm"}


def test_a_format_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A spelling mistake would else refuse every model."""
    path = tmp_path / "ours.toml"
    path.write_text('schema = 1\nname = "ours"\nextends = "vllm-0.33"\n[built_for]\namd_formats = ["bf16", "fp9"]\n')
    with pytest.raises(UserError, match=r"built_for\.amd_formats: 'fp9' is no format of weights, must be one of fp32"):
        load_profile(str(path))


def test_a_device_of_an_unknown_vendor_gets_no_engine() -> None:
    """Nothing is claimed for hardware nobody here knows an engine for."""
    spec = load_device("h100-sxm").model_copy(update={"vendor": "acme", "name": "acme-1"})
    answers = engines_for(load_model("llama-3.1-8b"), parse_plan("tp1"), spec)
    assert answers["vllm"] == "vllm is not known to run on acme devices such as acme-1"
    assert all(answers.values())
