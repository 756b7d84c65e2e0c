"""The text form of two pools reads back as written, and says which part is wrong."""

import pytest

from cluster_specs.errors import UserError
from simulator.plan.plan import Plan, parse_plan
from simulator.plan.pool_plan import PoolPlan, parse_layout


@pytest.mark.parametrize("text", ["prefill.tp4+decode.dp2-tp2", "prefill.pp2-tp2-kv.fp8+decode.tp8-kv.fp8-f1410"])
def test_text_reads_back(text: str) -> None:
    """Canonical text survives a round trip; the order of the sides does not matter."""
    plan = parse_layout(text)
    assert isinstance(plan, PoolPlan)
    assert str(plan) == text
    assert parse_layout("+".join(reversed(text.split("+")))) == plan
    assert plan.num_devices == plan.prefill.num_devices + plan.decode.num_devices


def test_a_plan_of_one_pool_is_read_as_ever() -> None:
    """Without the names of the pools it is a plain plan."""
    assert parse_layout("dp2-tp4") == parse_plan("dp2-tp4") == Plan(dp=2, tp=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prefill.tp4", "the decode pool is missing"),
        ("decode.tp4", "the prefill pool is missing"),
        ("prefill.tp4+prefill.tp2+decode.tp2", "the prefill pool is stated a second time"),
        ("tp4+decode.tp2", "neither prefill.PLAN nor decode.PLAN"),
        ("prefilltp4+decode.tp2", "neither prefill.PLAN nor decode.PLAN"),
        ("prefill.tp4+decode.xp2", "part 'xp2' is not one of"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    """Every refusal names the part."""
    with pytest.raises(UserError, match=message):
        parse_layout(text)
