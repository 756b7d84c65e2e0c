"""How kernels store MXFP4 experts: whole tiles per rank, scales and biases as each keeps them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.model.expert_layout import EXPERT_LAYOUTS, PLAIN, ExpertKernel
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan

_GIB = 2**30


def _weights(model: str, plan: str, kernel: ExpertKernel) -> int:
    return max(load_model(model).with_expert_layout(EXPERT_LAYOUTS[kernel]).stage_weight_bytes(parse_plan(plan)))


@pytest.mark.parametrize(("kernel", "logged_gib"), [("marlin", 65.9651), ("triton", 64.38)])
def test_weights_of_gpt_oss_as_servers_log_them(kernel: ExpertKernel, logged_gib: float) -> None:
    """One H100's "model loading took" is met within 0.2 % (vLLM issues 23278 and 33155)."""
    assert _weights("gpt-oss-120b", "tp1", kernel) / _GIB == pytest.approx(logged_gib, rel=2e-3)


def test_every_rank_pads_its_own_share() -> None:
    """2,880 columns over four ranks are 720 each, which Marlin stores as 768 x 3,072."""
    model = load_model("gpt-oss-120b")
    layers, experts, hidden, padded = 36, 128, 2880, 3072
    plain, marlin = (_weights("gpt-oss-120b", "tp4", kernel) for kernel in ("plain", "marlin"))
    elements = 3 * (768 * padded - 720 * hidden)
    biases = 2 * (2 * (768 - 720) + padded - hidden)
    assert marlin - plain == layers * experts * (elements * 17 // 32 + biases)
    assert model.with_expert_layout(PLAIN) == model


@given(
    plan=st.sampled_from(["tp1", "tp2", "tp4", "tp8", "tp4-ep4"]),
    kernel=st.sampled_from(list(EXPERT_LAYOUTS)),
    model=st.sampled_from(["gpt-oss-20b", "gpt-oss-120b"]),
)
def test_no_kernel_stores_less_than_the_checkpoint(plan: str, kernel: ExpertKernel, model: str) -> None:
    """Padding only adds."""
    assert _weights(model, plan, kernel) >= _weights(model, plan, "plain")


@pytest.mark.parametrize("model", ["mixtral-8x7b", "deepseek-v3", "llama-3.1-8b"])
def test_other_formats_are_stored_as_they_are(model: str) -> None:
    """Only MXFP4 experts have a layout of their own."""
    assert _weights(model, "tp8", "marlin") == _weights(model, "tp8", "plain")
