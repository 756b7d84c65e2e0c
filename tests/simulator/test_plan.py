"""The text form of a plan."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.plan.plan import KV_DTYPES, WEIGHT_DTYPES, Plan, parse_plan

_degree = st.integers(1, 64)


@given(
    dp=_degree,
    pp=_degree,
    tp=_degree,
    attention_dp=_degree,
    whole_experts=st.booleans(),
    weights=st.sampled_from([None, *WEIGHT_DTYPES]),
    kv=st.sampled_from([None, *KV_DTYPES]),
    clock=st.one_of(st.none(), st.integers(100, 3000), st.sampled_from([1410.5, 997.25])),
    cap=st.one_of(st.none(), st.integers(50, 1400), st.sampled_from([350.5])),
    seqs=st.one_of(st.none(), st.integers(1, 4096)),
    tokens=st.one_of(st.none(), st.integers(1, 65536)),
)
def test_text_round_trips(
    *,
    dp: int,
    pp: int,
    tp: int,
    attention_dp: int,
    whole_experts: bool,
    weights: str | None,
    kv: str | None,
    clock: float | None,
    cap: float | None,
    seqs: int | None,
    tokens: int | None,
) -> None:
    """Reading a plan's canonical text gives the same plan and the same text again."""
    plan = Plan(
        dp=dp,
        pp=pp,
        tp=tp,
        attention_dp=attention_dp,
        ep=tp * attention_dp if whole_experts else 1,
        weight_dtype=weights,
        kv_dtype=kv,
        clock_mhz=clock,
        power_cap_w=cap,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
    )
    assert parse_plan(str(plan)) == plan
    assert str(parse_plan(str(plan))) == str(plan)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tp0", "tp is 0, must be >= 1"),
        ("f0", "must be > 0"),
        ("tp2-cap0", "power cap is 0 W, must be > 0"),
        ("cap350-cap300", "sets power_cap_w a second time"),
        ("cap-350", "part 'cap' is not one of"),
        ("tp4-tp2", "a second time"),
        ("tp4-s0", "s is 0, must be >= 1"),
        ("attn.dp2-attn.dp4", "a second time"),
        ("tp4-ep2", "must be 1 or tp x attn.dp = 4"),
        ("tp4-w.int3", "w.int3 is not one of"),
        ("kv.mxfp4", "kv.mxfp4 is not one of"),
        ("tensor4", "'tensor4' is not one of"),
        ("", "'' is not one of"),
        ("tp-4", "'tp' is not one of"),
    ],
)
def test_bad_text_names_the_part(text: str, said: str) -> None:
    """Each mistake is one message that names the part and the limit."""
    with pytest.raises(UserError, match=said):
        parse_plan(text)


def test_devices_multiply() -> None:
    """A plan's devices are the product of its axes; experts add none."""
    plan = parse_plan("dp2-pp3-attn.dp4-tp2-moe.ep8")
    assert (plan.stage_ranks, plan.replica_devices, plan.num_devices) == (8, 24, 48)
