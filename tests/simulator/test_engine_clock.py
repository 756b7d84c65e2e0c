"""Time counts from the first arrival, ends at the clock's end with a message, and nothing is lost on the way."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.engine.conservation import RunSums
from simulator.engine.disaggregated import Pool, run_disaggregated
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine.stream import run_stream
from simulator.engine_profiles.engine_limits import EngineLimits, RouterName
from simulator.errors import EngineDefectError
from simulator.results.metrics import summarise, summarise_stream
from simulator.steps.step_tables import StepTables, linear_tables
from simulator.workload.workload import OpenLoop, PrefixBlocks, Workload

DAY = 86_400
LIMITS = EngineLimits(
    policy="vllm-v1", max_num_seqs=8, max_num_batched_tokens=256, max_model_len=4096, block_size=16, num_gpu_blocks=500
)


def tables(step_s: float = 0.01, stages: int = 1) -> StepTables:
    """Return a machine with steps of ``step_s`` and a little more per token."""
    return linear_tables(
        max_num_seqs=8,
        max_num_batched_tokens=256,
        step_ps=round(step_s * 1e12),
        token_ps=1_000_000,
        decode_kv_ps=777,
        stages=stages,
    )


def requests(n: int, seed: int = 0, **more: object) -> Workload:
    """Poisson-like arrivals on whole 2^-10 s, which float64 holds at any hour of any year."""
    rng = np.random.default_rng(seed)
    workload = Workload(
        name="drawn",
        arrival_s=np.cumsum(rng.integers(0, 300, n)) / 1024,
        prompt_tokens=rng.integers(1, 400, n),
        output_tokens=rng.integers(0, 60, n),
    )
    return replace(workload, **more)  # type: ignore[arg-type]


def later(workload: Workload, shift_s: float) -> Workload:
    """Return the same requests, sent ``shift_s`` later."""
    return replace(workload, arrival_s=workload.arrival_s + shift_s)


def values(result: EngineResult) -> dict[str, object]:
    """Everything a run left behind, comparable."""
    found = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "replicas"}
    found |= {field.name: getattr(result.replicas, field.name) for field in fields(result.replicas)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}


@pytest.mark.parametrize("shift_s", [43_200.0, 1_700_000_000.0, -7.25])
@pytest.mark.parametrize("router", ["round_robin", "vllm"])
def test_a_shift_of_the_trace_changes_nothing(shift_s: float, router: RouterName) -> None:
    """A trace recorded at another hour gives the same run, bit for bit: times, sums and metrics."""
    workload = requests(200)
    first = run_replicas(tables(), LIMITS, workload, dp=3, router=router)
    again = run_replicas(tables(), LIMITS, later(workload, shift_s), dp=3, router=router)
    assert values(again) == values(first)
    assert summarise(again) == summarise(first)
    assert first.arrival_ps[0] == 0


def test_a_shift_of_sessions_changes_nothing() -> None:
    """Turns that follow others count from the same first arrival as the requests sent on their own."""
    n = 60
    after = np.where(np.arange(n) % 3 > 0, np.arange(n) - 1, -1)
    workload = requests(n, after=after, think_s=np.full(n, 0.3))
    workload = replace(workload, arrival_s=np.maximum.accumulate(np.where(after < 0, workload.arrival_s, 0.0)))
    first = run_replicas(tables(), LIMITS, workload)
    assert values(run_replicas(tables(), LIMITS, later(workload, 86_399.0))) == values(first)


def test_a_shift_of_a_stream_changes_nothing() -> None:
    """Parts count from the first arrival of the first part."""

    def parts(shift_s: float) -> list[Workload]:
        whole = later(requests(300), shift_s)
        cuts = [slice(0, 100), slice(100, 101), slice(101, 300)]
        return [
            replace(
                whole,
                arrival_s=whole.arrival_s[cut],
                prompt_tokens=whole.prompt_tokens[cut],
                output_tokens=whole.output_tokens[cut],
            )
            for cut in cuts
        ]

    first = list(run_stream(tables(), LIMITS, parts(0.0), dp=2))
    again = list(run_stream(tables(), LIMITS, parts(1.7e9), dp=2))
    assert [values(part) for part in again] == [values(part) for part in first]
    assert summarise_stream(again) == summarise_stream(first)


def test_a_shift_of_two_pools_changes_nothing() -> None:
    """Prefill, transfer and decode count from the same first arrival."""
    pool = Pool(tables=tables(), limits=LIMITS)
    runs = [
        run_disaggregated(pool, pool, later(requests(100), shift_s), transfer_s=lambda tokens: tokens * 1e-5)
        for shift_s in (0.0, 50_000.0)
    ]
    assert values(runs[1].requests) == values(runs[0].requests)
    assert runs[1].kv_ready_ps.tolist() == runs[0].kv_ready_ps.tolist()


@pytest.mark.parametrize("dp", [1, 4])
def test_a_trace_of_sixty_one_days_is_served_to_its_end(dp: int) -> None:
    """All requests of a long trace finish, and sums over replicas that exceed int64 stay right."""
    workload = replace(requests(2000), arrival_s=np.linspace(0, 61 * DAY, 2000))
    result = run_replicas(tables(), LIMITS, workload, dp=dp)
    metrics = summarise(result)
    assert metrics.finished == 2000
    assert metrics.duration_s == pytest.approx(61 * DAY, rel=1e-6)
    busy_s = sum(int(ps) for ps in result.replicas.busy_ps) * 1e-12
    span_s = sum(int(ps) for ps in result.replicas.last_end_ps) * 1e-12
    assert metrics.utilisation_frac == pytest.approx(busy_s / span_s, rel=1e-12)
    assert metrics.breakdown.idle_frac == pytest.approx(1 - busy_s / span_s, rel=1e-9)


def test_what_the_clock_cannot_hold_is_refused_by_request() -> None:
    """A span, a think time or think times in a chain beyond 100 days are refused with both numbers."""
    two = requests(2, arrival_s=np.array([5.0, 5.0 + 101 * DAY]))
    with pytest.raises(UserError, match=r"request 1 is sent 8,726,400 s \(101 days\) after .* 8,640,000 s"):
        run_replicas(tables(), LIMITS, two)
    chain = requests(
        3, arrival_s=np.zeros(3), after=np.array([-1, 0, 1]), think_s=np.array([0.0, 60.0 * DAY, 60.0 * DAY])
    )
    with pytest.raises(UserError, match=r"request 2 is sent .*\(120 days\), think times alone, after the first one"):
        run_replicas(tables(), LIMITS, chain)
    for think_s, shown in ((1e7, "10,000,000"), (-1.0, "-1"), (np.nan, "nan")):
        with pytest.raises(UserError, match=f"request 1 has think_s {shown}, must be 0 to 8,640,000 s"):
            run_replicas(tables(), LIMITS, replace(chain, think_s=np.array([0.0, think_s, 0.0])))
    with pytest.raises(UserError, match="request 1 arrives at nan s, must be finite"):
        run_replicas(tables(), LIMITS, requests(2, arrival_s=np.array([0.0, np.nan])))
    with pytest.raises(UserError, match="request 1 follows request 2, must follow an earlier one"):
        run_replicas(tables(), LIMITS, replace(chain, after=np.array([-1, 2, 1])))
    with pytest.raises(UserError, match="think_s has 2 entries, prompt_tokens 3"):
        run_replicas(tables(), LIMITS, replace(chain, think_s=np.zeros(2)))


def test_a_run_that_outlasts_the_clock_ends_with_a_message() -> None:
    """Service that goes on past the clock's end, or a turn that would come after it, is no result."""
    slow = tables(step_s=500.0)
    long = requests(1, prompt_tokens=np.array([5]), output_tokens=np.array([30_000]))
    roomy = replace(LIMITS, max_model_len=40_000, num_gpu_blocks=4000)
    with pytest.raises(UserError, match=r"1 of 1 requests are not answered after 8,726,400 s \(101 days\)"):
        run_replicas(slow, roomy, long)
    turns = requests(
        2,
        arrival_s=np.zeros(2),
        prompt_tokens=np.array([5, 5]),
        output_tokens=np.array([10_000, 5]),  # 58 days
        after=np.array([-1, 0]),
        think_s=np.array([0.0, 60.0 * DAY]),
    )
    with pytest.raises(UserError, match="1 of 2 requests are not answered"):
        run_replicas(slow, roomy, turns)
    with pytest.raises(UserError, match="1 of 1 requests are not answered"):
        list(run_stream(slow, roomy, [long]))
    answered = run_replicas(slow, roomy, replace(turns, think_s=np.array([0.0, 40.0 * DAY])))
    assert answered.is_finished.all()


def test_sums_over_stages_and_steps_end_a_run_before_they_wrap() -> None:
    """Eight busy stages pass 101 days together within 13; a replica may take some billions of decode steps."""
    with pytest.raises(UserError, match="stages of a replica work for more than 8,726,400 s"):
        run_replicas(
            tables(step_s=100.0, stages=8),
            replace(LIMITS, max_model_len=40_000, num_gpu_blocks=4000),
            requests(1, output_tokens=np.array([12_000])),
        )
    fast = linear_tables(max_num_seqs=1, max_num_batched_tokens=16, step_ps=1000, token_ps=0)
    one_by_one = replace(
        LIMITS, max_num_seqs=1, max_num_batched_tokens=16, max_model_len=1 << 31, num_gpu_blocks=1 << 28
    )
    endless = Workload(
        name="endless",
        arrival_s=np.zeros(5),
        prompt_tokens=np.full(5, 8),
        output_tokens=np.full(5, (1 << 31) - 8),
        client=OpenLoop(),
    )
    with pytest.raises(UserError, match="a replica takes more than 6,442,450,943 decode steps"):
        run_replicas(fast, one_by_one, endless)
    assert run_replicas(fast, one_by_one, endless.head(2)).replicas.steps.tolist() == [2 * ((1 << 31) - 8)]


def test_steps_too_long_to_count_are_refused() -> None:
    """Tables that are each short enough, but not together or not as far out as the limits reach, are refused."""
    slow = tables(step_s=600.0)
    with pytest.raises(UserError, match=r"one step may take 1,200 s, the engine counts up to 1,000 s"):
        run_replicas(replace(slow, host_step_ps=600 * 10**12), LIMITS, requests(1))
    growing = replace(tables(), decode_ps=tables().decode_ps * 100_000_000)
    with pytest.raises(UserError, match="one step may take"):
        run_replicas(growing, replace(LIMITS, num_gpu_blocks=1 << 20), requests(1))
    with pytest.raises(UserError, match="token_mixed_ps has an entry of -1 ps"):
        run_replicas(replace(tables(), token_mixed_ps=tables().token_mixed_ps * 0 - 1), LIMITS, requests(1))
    with pytest.raises(UserError, match=r"frontend_s is 2000.0, must be 0 to 1000 s"):
        run_replicas(tables(), replace(LIMITS, frontend_s=2000.0), requests(1))
    with pytest.raises(UserError, match="num_gpu_blocks is 536870912, must be <= 268435456"):
        run_replicas(tables(), replace(LIMITS, num_gpu_blocks=1 << 29), requests(1))


@pytest.mark.parametrize("policy", ["sglang", "vllm-v0"])
def test_a_batch_above_the_budget_is_refused_where_all_decode(policy: str) -> None:
    """SGLang and V0 decode every sequence in each step: more of them than tokens would read beyond the tables."""
    limits = replace(
        LIMITS,
        policy=policy,
        max_num_batched_tokens=7,
        enable_chunked_prefill=policy == "sglang",  # type: ignore[arg-type]
    )
    with pytest.raises(UserError, match="max_num_seqs is 8, must be at most max_num_batched_tokens = 7"):
        run_replicas(tables(), limits, requests(1))


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.booleans(), st.booleans(), st.sampled_from([1, 2]))
def test_a_log_changes_nothing_but_itself(seed: int, is_async: bool, is_caching: bool, dp: int) -> None:
    """Every time, sum and integral of a run is the same with and without the iteration log."""
    rng = np.random.default_rng(seed)
    n = 60
    blocks = rng.integers(0, 5, n)
    prefix = PrefixBlocks(
        block_tokens=16,
        offsets=np.concatenate([[0], np.cumsum(blocks)]),
        ids=np.concatenate([np.arange(count) + 5 * (i % 4) for i, count in enumerate(blocks)]),
    )
    workload = replace(requests(n, seed), prompt_tokens=16 * blocks + rng.integers(1, 90, n), prefix=prefix)
    limits = replace(
        LIMITS,
        num_gpu_blocks=int(rng.integers(20, 90)),
        async_scheduling=is_async,
        enable_prefix_caching=is_caching,
    )
    plain = values(run_replicas(tables(), limits, workload, dp=dp))
    logged = values(run_replicas(tables(), limits, workload, dp=dp, log=True))
    assert plain.pop("log") is None
    assert logged.pop("log") is not None
    assert logged == plain


def test_a_run_that_loses_anything_is_a_defect() -> None:
    """A request or a token that goes in and does not come out stops the run with the numbers."""
    workload = requests(20)
    result = run_replicas(tables(), LIMITS, workload)
    ledger = RunSums()
    ledger.add(result)
    ledger.check("drawn", 20, result.replicas)
    with pytest.raises(EngineDefectError, match="21 requests were sent, 20 answered and 0 rejected"):
        ledger.check("drawn", 21, result.replicas)
    with pytest.raises(EngineDefectError, match="further output tokens were answered with"):
        ledger.check("drawn", 20, replace(result.replicas, decode_tokens=result.replicas.decode_tokens - 1))
    with pytest.raises(EngineDefectError, match="prompts of"):
        ledger.check("drawn", 20, replace(result.replicas, prefill_tokens=result.replicas.prefill_tokens + 1))
