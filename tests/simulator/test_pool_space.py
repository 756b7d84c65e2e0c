"""The space of two pools: complete, and smaller only by what is refused with a reason."""

import pytest

from cluster_specs.errors import UserError
from simulator.feasible.plan_space import Axes, plans_on
from simulator.plan.pool_plan import PoolPlan
from simulator.pools.disaggregation import replay_pools, start_pools, with_pools_interval
from simulator.pools.pool_space import enumerate_pools
from simulator.results.objective import parse_objective
from simulator.search.search import search
from simulator.serving import Refusal
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of

_WORKLOAD = parse_workload("chat-synthetic", limit=20)


@pytest.mark.parametrize("model", ["llama-3.1-70b", "mixtral-8x7b"])
def test_no_pair_that_can_start_is_left_out(model: str) -> None:
    """Every pair of layouts on 4 devices is listed, or starting it is refused."""
    serving = serving_of(model, "h100-sxm-4")
    pairs, refused = enumerate_pools(serving, _WORKLOAD, Axes())
    listed = {str(pair.plan) for pair in pairs}
    assert len(listed) == len(pairs) > 0
    assert all(refusal.reason.startswith("as a pool: ") for refusal in refused)
    device = serving.cluster.device
    for first in range(1, 4):
        for prefill in plans_on(serving.model, device, first, Axes()):
            for decode in plans_on(serving.model, device, 4 - first, Axes()):
                pair = PoolPlan(prefill=prefill, decode=decode)
                started = not isinstance(start_pools(serving, pair, _WORKLOAD), Refusal)
                assert started == (str(pair) in listed)


def test_pools_end_at_node_borders() -> None:
    """On several nodes each pool takes whole ones; with fewer devices asked for, some nodes may stay free."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-3x8")
    for fewer, sizes in ((False, {(8, 16), (16, 8)}), (True, {(8, 16), (16, 8), (8, 8)})):
        pairs, _ = enumerate_pools(serving, _WORKLOAD, Axes(allow_fewer_devices=fewer))
        plans = [starts.plan for starts in pairs]
        assert {(plan.prefill.num_devices, plan.decode.num_devices) for plan in plans} == sizes


def test_pools_share_formats_but_not_clocks() -> None:
    """One checkpoint and one KV format for both pools; each has a clock of its own."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-2")
    axes = Axes(weight_dtypes=(None, "fp8"), kv_dtypes=(None, "fp8"), clocks_mhz=(None, 990.0))
    pairs, _ = enumerate_pools(serving, _WORKLOAD, axes)
    assert len(pairs) == 2 * 2 * (2 * 2)


def test_search_judges_pools_beside_plans_of_one() -> None:
    """With the axis on, every plan of one pool and every pair is ranked or refused."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-2")
    alone = search(serving, _WORKLOAD, parse_objective("e2e_s"))
    both = search(serving, _WORKLOAD, parse_objective("e2e_s"), axes=Axes(pools=True))
    ranked = {str(result.plan) for result in both.ranked}
    assert ranked == {str(result.plan) for result in alone.ranked} | {"prefill.tp1+decode.tp1"}


@pytest.mark.parametrize(
    ("profile", "trace", "part"),
    [
        ("orca", "chat-synthetic", "orca does not say how two pools"),
    ],
)
def test_what_two_pools_cannot_simulate_is_one_error(profile: str, trace: str, part: str) -> None:
    """An engine or a client that no pair can be simulated for ends the search before it starts."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-2", profile)
    with pytest.raises(UserError, match=part):
        enumerate_pools(serving, parse_workload(trace), Axes(pools=True))


def test_pairs_that_share_a_pool_answer_as_each_alone() -> None:
    """What pairs of a search have in common is made once; every answer and interval is that of the pair by itself."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-4")
    pairs, _ = enumerate_pools(serving, _WORKLOAD, Axes())
    assert len({id(pair.shared) for pair in pairs}) == 1
    assert len({id(pair.prefill) for pair in pairs}) < len(pairs)
    for pair in pairs:
        alone = start_pools(serving, pair.plan, _WORKLOAD)
        assert not isinstance(alone, Refusal)
        results = [
            with_pools_interval(serving, replay_pools(serving, starts, _WORKLOAD), _WORKLOAD)
            for starts in (pair, alone)
        ]
        assert results[0].to_json() == results[1].to_json()
