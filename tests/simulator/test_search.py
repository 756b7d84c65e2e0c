"""A search judges every plan, loses none, and ranks by what a user would see."""

from pathlib import Path

import numpy as np
import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import choose_costs
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.plan_space import Axes, enumerate_plans
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.results.objective import parse_objective, parse_slo
from simulator.search.search import search, smallest_cluster
from simulator.serving import Refusal, Serving
from simulator.simulate import InfeasibleError, replay, simulate
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of

_TRACES = Path(__file__).parents[3] / "shared" / "groundtruth" / "traces"


def test_every_plan_is_ranked_or_refused_with_a_reason() -> None:
    """Plans in = plans out: each enumerated layout is either simulated or refused, and refusals say why."""
    serving = serving_of("llama-3.1-70b", "h100-sxm-8")
    found = search(serving, parse_workload("chat-synthetic", limit=100), parse_objective("e2e_s"))
    names = {str(result.plan) for result in found.ranked} | {str(refusal.plan) for refusal in found.refused}
    assert names == {str(plan) for plan in enumerate_plans(serving.model, serving.cluster)}
    assert all(refusal.reason for refusal in found.refused)
    counts = found.to_json()["counts"]
    assert counts["enumerated"] == counts["rejected"] + counts["pruned"] + counts["simulated"] == len(names)


def test_best_plan_has_the_best_value() -> None:
    """The first plan has the least mean latency of all simulated ones, or the most throughput when that is asked."""
    serving = serving_of("llama-3.1-8b", "l40s-4")
    workload = parse_workload("synthetic:chat,rate=20,n=300,seed=1")
    for text, pick in (("e2e_s.mean", min), ("throughput_tokens_per_s", max)):
        found = search(serving, workload, parse_objective(text))
        values = [
            result.metrics["e2e_s"]["mean"] if pick is min else result.metrics["throughput_tokens_per_s"]
            for result in found.ranked
        ]
        assert values[0] == pick(values)


def test_number_of_threads_changes_nothing() -> None:
    """The same search on one thread and on four gives the same JSON, to the last digit."""
    workload = parse_workload("chat-synthetic", limit=60)
    one, four = (
        search(serving_of("llama-3.1-8b", "h100-sxm-4"), workload, parse_objective("ttft_s.p99"), threads=threads)
        for threads in (1, 4)
    )
    assert one.to_json() == four.to_json()


def test_number_of_threads_changes_no_note() -> None:
    """How many prices were asked, and at which clocks, is said alike by one thread and by eight."""
    spec = load_cluster("h100-sxm-8")
    said = set()
    for threads in (1, 8):
        serving = Serving(
            model=load_model("mixtral-8x7b"),
            cluster=spec,
            profile=load_profile("vllm-0.33"),
            costs=lambda clock_mhz: choose_costs(None, spec, clock_mhz),
        )
        axes = Axes(clocks_mhz=(None, 1200.0, 900.0))
        search(
            serving, parse_workload("chat-synthetic", limit=20), parse_objective("e2e_s"), axes=axes, threads=threads
        )
        said.add(tuple(serving.price_notes()))
    assert len(said) == 1


def test_plans_that_break_a_limit_come_last_and_say_so() -> None:
    """A limit between the fastest and the slowest plan parts the list; nothing is dropped."""
    serving = serving_of("llama-3.1-70b", "h100-sxm-8")
    workload = parse_workload("chat-synthetic", limit=60)
    free = search(serving, workload, parse_objective("e2e_s"))
    bound = free.ranked[1].metrics["e2e_s"]["mean"]
    found = search(serving, workload, parse_objective("e2e_s"), slo=parse_slo([f"e2e_s.mean<={bound!r}"]))
    assert len(found.ranked) == 2
    assert len(found.breaking) == len(free.ranked) - 2
    assert found.to_json()["plans"][-1]["breaks"]


def test_clock_and_formats_are_axes() -> None:
    """Each format and clock multiplies the plans, and a lower clock never makes prefill faster."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-1")
    axes = Axes(weight_dtypes=(None, "fp8"), kv_dtypes=(None, "fp8"), clocks_mhz=(None, 990.0))
    found = search(serving, parse_workload("chat-synthetic", limit=40), parse_objective("e2e_s"), axes=axes)
    by_name = {str(result.plan): result.metrics["ttft_s"]["mean"] for result in found.simulated}
    assert len(by_name) == 8
    assert by_name["tp1"] < by_name["tp1-f990"]
    assert by_name["tp1-w.fp8"] < by_name["tp1"]


def test_batch_limits_are_axes() -> None:
    """Fewer sequences per step make requests wait; more sequences than tokens of a step are refused, not an error."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-1")
    axes = Axes(max_num_seqs=(4, None, 512), max_num_batched_tokens=(None, 256))
    workload = parse_workload("synthetic:chat,rate=20,n=100,seed=1")
    found = search(serving, workload, parse_objective("e2e_s"), axes=axes)
    queue_s = {str(result.plan): result.metrics["queue_s"]["mean"] for result in found.ranked}
    assert set(queue_s) == {"tp1", "tp1-s4", "tp1-s512", "tp1-t256", "tp1-s4-t256"}
    assert queue_s["tp1-s4"] > 2 * queue_s["tp1"]
    assert [str(refusal.plan) for refusal in found.refused] == ["tp1-s512-t256"]
    stated = serving_of("llama-3.1-8b", "h100-sxm-1", max_num_seqs=4, max_num_batched_tokens=256)
    alone = search(stated, workload, parse_objective("e2e_s"), plans=[parse_plan("tp1")])
    assert alone.ranked[0].metrics["queue_s"]["mean"] == queue_s["tp1-s4-t256"]


def test_a_plan_that_cannot_start_is_a_refusal_not_an_exception() -> None:
    """Too little memory, heads that do not divide and formats the device lacks each give a reason with a value."""
    workload = parse_workload("chat-synthetic", limit=10)
    for model, cluster, plan, part in (
        ("llama-3.1-70b", "h100-sxm-8", "dp8", "GiB"),
        ("qwen2.5-7b", "h100-sxm-8", "tp8", "tp is 8"),
        ("llama-3.1-8b", "a100-sxm-80gb-1", "tp1-w.fp8", "fp8"),
        ("llama-3.1-8b", "h100-sxm-1", "tp2", "needs 2 devices"),
        ("llama-3.1-8b", "h100-sxm-2", "ep2-tp2", "no experts"),
    ):
        start = serving_of(model, cluster).start(parse_plan(plan), workload)
        assert isinstance(start, Refusal)
        assert part in start.reason


@pytest.mark.parametrize(
    ("model", "cluster", "engine"),
    [
        ("llama-3.1-405b", "l40s-8", "vllm-0.33"),
        # Its weights have room on one device, its start-up has not: the engine's own memory counts.
        ("gpt-oss-120b", "h100-sxm-1", "vllm-0.10"),
    ],
)
def test_smallest_cluster_really_holds_the_model(model: str, cluster: str, engine: str) -> None:
    """The cluster an infeasible search recommends runs the plan it names."""
    serving = serving_of(model, cluster, engine)
    workload = parse_workload("chat-synthetic", limit=10)
    assert not search(serving, workload, parse_objective("e2e_s")).ranked
    plan = smallest_cluster(serving, workload)
    assert plan is not None
    assert plan.num_devices > serving.cluster.num_devices
    shape = f"{plan.num_devices // 8}x8" if plan.num_devices > 8 else str(plan.num_devices)
    larger = serving_of(model, f"{cluster.rsplit('-', 1)[0]}-{shape}", engine)
    assert not isinstance(larger.start(plan, workload), Refusal)


def test_library_call_matches_the_search() -> None:
    """`simulate` from a notebook gives the metrics the search ranked."""
    cluster, workload = load_cluster("h100-sxm-8"), parse_workload("chat-synthetic", limit=50)
    alone = simulate(
        parse_plan("dp2-tp4"), workload, cluster, AnalyticCosts(cluster), model=load_model("llama-3.1-70b")
    )
    serving = serving_of("llama-3.1-70b", "h100-sxm-8")
    found = search(serving, workload, parse_objective("e2e_s"), plans=[parse_plan("dp2-tp4")])
    assert found.ranked[0].metrics["e2e_s"] == alone.metrics["e2e_s"]
    with pytest.raises(InfeasibleError, match="dp8 cannot start"):
        simulate(parse_plan("dp8"), workload, cluster, AnalyticCosts(cluster), model=load_model("llama-3.1-70b"))
    with pytest.raises(UserError, match="clock_mhz"):
        simulate(parse_plan("tp8-f900"), workload, cluster, AnalyticCosts(cluster), model=load_model("llama-3.1-70b"))


def test_max_model_len_is_the_longest_request_in_whole_kilotokens() -> None:
    """Without a flag the engine is started for the trace; with one, for the flag, within the model's context."""
    workload = parse_workload("synthetic:isl=3000,osl=500,rate=1,n=5")
    assert serving_of("llama-3.1-8b", "h100-sxm-1").max_model_len(workload) == 4096
    assert serving_of("llama-3.1-8b", "h100-sxm-1", max_model_len=9000).max_model_len(workload) == 9000
    with pytest.raises(UserError, match="131072"):
        serving_of("llama-3.1-8b", "h100-sxm-1", max_model_len=200_000).max_model_len(workload)


def test_sequences_never_exceed_the_token_budget() -> None:
    """A small budget lowers the default number of sequences; a contradiction the user states is an error."""
    workload = parse_workload("chat-synthetic", limit=10)
    start = serving_of("llama-3.1-8b", "h100-sxm-1", max_num_batched_tokens=128).start(parse_plan("tp1"), workload)
    assert not isinstance(start, Refusal)
    assert start.limits.max_num_seqs == 128
    with pytest.raises(UserError, match="max_num_seqs is 200, must be at most"):
        serving_of("llama-3.1-8b", "h100-sxm-1", max_num_batched_tokens=128, max_num_seqs=200).start(
            parse_plan("tp1"), workload
        )


def test_a_slow_client_does_not_give_the_server_more_memory() -> None:
    """The engine sizes its cache for its own max_num_seqs, however few requests a client keeps in flight."""
    few, many = (parse_workload(f"closed:isl=128,osl=16,concurrency={slots}") for slots in (2, 64))
    serving = serving_of("llama-3.1-8b", "h100-sxm-1", max_model_len=2048)
    starts = [serving.start(parse_plan("tp1"), workload) for workload in (few, many)]
    assert not any(isinstance(start, Refusal) for start in starts)
    assert len({start.memory.num_gpu_blocks for start in starts if not isinstance(start, Refusal)}) == 1


@pytest.mark.parametrize("name", ["apex_llama_creation_05.jsonl", "azure_2023_conv.csv"])
def test_real_trace_is_served_whole(name: str) -> None:
    """Every request of a real trace finishes, and the tokens the engine produced are those the trace asked for."""
    path = _TRACES / name
    if not path.exists():
        pytest.skip(f"{path} is not here: measured traces are not part of the repository")
    serving = serving_of("llama-3.1-70b", "h100-sxm-8")
    workload = parse_workload(str(path))
    start = serving.start(parse_plan("dp2-tp4"), workload)
    assert not isinstance(start, Refusal)
    result = replay(serving, start, workload)
    run = result.run
    assert result.metrics["finished"] == len(workload)
    assert int(run.output_tokens.sum()) == int(workload.output_tokens.sum())
    # One token of each answer comes out of its prefill, the others out of decode steps.
    decoded = int(run.replicas.decode_tokens.sum())
    assert decoded == int(np.maximum(workload.output_tokens - 1, 0).sum())
    assert int(run.replicas.prefill_tokens.sum()) == int(workload.prompt_tokens.sum())


def test_a_plan_that_outlasts_the_clock_is_refused_alone() -> None:
    """Where one replica would need 120 days for a week's requests and two need 60, the second plan is still ranked."""
    serving = serving_of("llama-3.1-8b", "l40s-2", max_num_seqs=1)
    workload = parse_workload("synthetic:isl=100,osl=100000,arrivals=constant,rate=0.0066,n=4000")
    found = search(serving, workload, parse_objective("e2e_s"), plans=[parse_plan("tp1"), parse_plan("dp2")])
    assert [str(result.plan) for result in found.ranked] == ["dp2"]
    assert found.ranked[0].metrics["finished"] == 4000
    assert "requests are not answered after 8,726,400 s (101 days)" in found.refused[0].reason


def test_several_objectives_put_the_plans_first_that_none_beats() -> None:
    """What is behind the front is beaten by one of it in every metric, none of the front is, and the JSON says so."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-4")
    aims = [parse_objective("e2e_s"), parse_objective("throughput_tokens_per_s"), parse_objective("energy_j")]
    axes = Axes(clocks_mhz=(None, 1410.0, 990.0))
    workload = parse_workload("synthetic:isl=300,osl=30,rate=8,n=40,seed=1")
    found = search(serving, workload, aims[0], further=aims[1:], axes=axes)
    ranks = {str(result.plan): [aim.rank(result.metrics) for aim in aims] for result in found.ranked}

    def is_beaten(name: str) -> bool:
        return any(
            all(a <= b for a, b in zip(other, ranks[name], strict=True)) and other != ranks[name]
            for other in ranks.values()
        )

    front = [str(result.plan) for result in found.front]
    assert front == list(ranks)[: len(front)] == [name for name in ranks if not is_beaten(name)]
    assert 1 < len(front) < len(ranks)
    flags = {plan["plan"]: plan["on_front"] for plan in found.to_json()["plans"]}
    assert [name for name, is_on_front in flags.items() if is_on_front] == front
    assert str(found.ranked[0].plan) == str(search(serving, workload, aims[0], axes=axes).ranked[0].plan)
