"""Which axis has the nearest links: every rank has a device, groups have the strides of that, and prices follow."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.cluster import ClusterSpec
from cluster_specs.load import load_cluster
from costmodel.ops.op_types import Collective
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.plan_space import Axes, enumerate_plans
from simulator.launch import launch_lines
from simulator.model.load_model import load_model
from simulator.model.placement import device_order, placed
from simulator.plan.plan import Plan, contradiction, parse_plan
from simulator.serving import Refusal, Serving
from simulator.simulate import replay
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of

_CHAT = parse_workload("synthetic:isl=550,osl=250,rate=4,n=20")
_ISLANDS = """
schema = 1
name = "islands"
device = "h100-sxm"
nodes = 1
devices_per_node = 8

[[level]]
name = "nvlink"
kind = "nvlink"
group_size = 4
bandwidth_bytes_per_s = 4.5e11
latency_s = 3e-6
source = "two islands of four devices"

[[level]]
name = "pcie"
kind = "pcie"
group_size = 8
bandwidth_bytes_per_s = 5e10
latency_s = 1e-5
source = "between the islands"
"""


@pytest.fixture(name="islands")
def _islands(tmp_path_factory: pytest.TempPathFactory) -> ClusterSpec:
    path = tmp_path_factory.mktemp("islands") / "islands.toml"
    path.write_text(_ISLANDS)
    return load_cluster(str(path))


_degrees = st.sampled_from([1, 2, 4])
_near = st.sampled_from(["tp", "pp", "attn.dp"])


@given(pp=_degrees, attention_dp=_degrees, tp=_degrees, near=_near)
def test_groups_lie_where_the_ranks_of_the_order_do(pp: int, attention_dp: int, tp: int, near: str) -> None:
    """Each rank has one device, and the groups of each axis have the stride that their devices really have."""
    plan = Plan(pp=pp, attention_dp=attention_dp, tp=tp, near=near)  # type: ignore[arg-type]
    if contradiction(plan) is not None:
        return
    order = device_order(plan)
    assert sorted(order) == list(range(plan.replica_devices))
    at = {
        rank: order[(rank[0] * attention_dp + rank[1]) * tp + rank[2]]
        for rank in product(range(pp), range(attention_dp), range(tp))
    }
    groups = [
        (Collective(kind="all_reduce", message_bytes=1, ranks=tp), [at[0, 0, shard] for shard in range(tp)]),
        (
            Collective(kind="all_gather", message_bytes=1, ranks=attention_dp, group_stride=tp),
            [at[0, data, 0] for data in range(attention_dp)],
        ),
        (
            Collective(kind="send_recv", message_bytes=1, ranks=2, group_stride=plan.stage_ranks),
            [at[stage, 0, 0] for stage in range(min(2, pp))],
        ),
    ]
    for op, devices in groups:
        if len(devices) > 1:
            (moved,) = placed(plan, [op])
            assert isinstance(moved, Collective)
            assert devices == [index * moved.group_stride for index in range(len(devices))]


def test_a_tensor_group_across_islands_costs_more(islands: ClusterSpec) -> None:
    """On two islands of four, tp4-pp2 is faster with a stage on each island than with every stage across both."""
    serving = Serving(
        model=load_model("llama-3.1-70b"),
        cluster=islands,
        profile=load_profile("vllm-0.33"),
        costs=lambda clock_mhz: AnalyticCosts(islands, clock_mhz),
    )
    inside, across = (
        replay(serving, start_of(serving, text, _CHAT), _CHAT).metrics["tpot_s"]["mean"]
        for text in ("pp2-tp4", "pp2-tp4-near.pp")
    )
    assert inside < across


def test_placements_are_listed_when_asked_for_and_act() -> None:
    """Each layout with tensor ranks beside stages or attention ranks is listed with the other axis nearest, too."""
    model, cluster = load_model("mixtral-8x7b"), load_cluster("h100-sxm-8")
    listed = enumerate_plans(model, cluster, Axes(more=frozenset({"placement"})))
    plain = {str(plan) for plan in enumerate_plans(model, cluster)}
    others = [plan for plan in listed if plan.near != "tp"]
    assert plain == {str(plan) for plan in listed if plan.near == "tp"}
    assert {"pp2-tp4-near.pp", "attn.dp4-tp2-near.attn.dp", "pp2-attn.dp2-tp2-near.pp"} <= set(map(str, others))
    assert all(contradiction(plan) is None and parse_plan(str(plan)) == plan for plan in others)


def test_the_command_hands_devices_out_in_that_order() -> None:
    """Ranks count tensor first: with stages nearest, the first stage has every second device."""
    serving = serving_of("llama-3.1-70b", "h100-sxm-8", "vllm-0.33")
    printed = "\n".join(launch_lines(serving, start_of(serving, "pp2-tp4-near.pp", _CHAT)))
    assert "export CUDA_VISIBLE_DEVICES=0,2,4,6,1,3,5,7  #" in printed


def test_hosts_are_taken_in_their_order() -> None:
    """No engine orders the devices of several hosts: refused by it, with the size that would do."""
    refused = serving_of("llama-3.1-70b", "h100-sxm-2x8", "vllm-0.33").start(parse_plan("pp2-tp8-near.pp"), _CHAT)
    assert isinstance(refused, Refusal)
    assert refused.by == "engine"
    assert "takes the devices of several hosts in their order" in refused.reason
    assert "at most 8 devices" in refused.reason
