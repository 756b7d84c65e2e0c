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
        ("tp8-ep3", "ep is 3, must divide tp x attn.dp = 8"),
        ("tp8-ep4-moe.dp4", "ep is 4, must divide tp x attn.dp / moe.dp = 2"),
        ("attn.dp8-moe.dp3", "moe.dp is 3, must divide tp x attn.dp = 8"),
        ("tp8-near.pp", "near.pp says which of two axes has the nearest links"),
        ("tp8-moe.redundant8", "8 experts are held twice, but ep is 1"),
        ("tp8-dcp3", "dcp is 3, must divide tp = 8"),
        ("tp4-mlp.dp8", "mlp.dp is 8, must divide tp x attn.dp = 4"),
        ("attn.dp6-tp2-mlp.dp4", "mlp.dp is 4 and attn.dp 6: one must divide the other"),
        ("pp4_0", "stage 2 has 0 layers"),
        ("pp2-pp40_40", "sets pp a second time"),
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


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("tp8-ep3", "ep2 or ep4"),
        ("tp8-ep16", "ep8"),
        ("tp6-moe.dp4", "moe.dp3 or moe.dp6"),
        ("tp4-mlp.dp3", "mlp.dp2 or"),
    ],
)
def test_contradictory_degrees_name_the_nearest_that_would_do(text: str, nearest: str) -> None:
    """What does not divide comes with the divisors next to it."""
    with pytest.raises(UserError) as refused:
        parse_plan(text)
    assert nearest in refused.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "pp41_39-tp4",
        "tp8-ep2",
        "tp8-ep4-moe.dp2",
        "attn.dp4-tp2-moe.ep2",
        "attn.dp8-mlp.dp1",
        "tp8-mlp.dp8",
        "tp8-dcp4-ep8",
        "attn.dp8-moe.ep8-moe.redundant32",
        "pp2-tp4-near.pp",
    ],
)
def test_layouts_inside_a_stage_have_a_text_form(text: str) -> None:
    """Grids of experts, copies of feed-forwards and stated stages read back as written."""
    assert str(parse_plan(text)) == text


def test_devices_multiply() -> None:
    """A plan's devices are the product of its axes; experts add none."""
    plan = parse_plan("dp2-pp3-attn.dp4-tp2-moe.ep8")
    assert (plan.stage_ranks, plan.replica_devices, plan.num_devices) == (8, 24, 48)
