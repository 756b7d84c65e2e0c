"""Plans at several rates: each point is the run at that rate, and the knee is where a plan stops keeping up."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from simulator.cli import apex, main
from simulator.plan.plan import parse_plan
from simulator.results.objective import parse_slo
from simulator.search.sweep import RatePoint, knee, sweep
from simulator.serving import StartedPlan
from simulator.simulate import replay
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of

_COMMAND = "sweep --model tiny-llama --cluster h100-sxm-2 --trace synthetic:isl=64,osl=8,rate=4,n=12,seed=1"


def _run(words: str) -> Result:
    return CliRunner().invoke(apex, words.split())


def test_a_point_is_the_run_at_its_rate() -> None:
    """At the trace's own rate, long enough as it is, the metrics are those of the trace simulated."""
    serving, plan = serving_of("llama-3.1-8b", "h100-sxm-1"), parse_plan("tp1")
    workload = parse_workload("synthetic:isl=128,osl=16,rate=20,n=400,seed=1")
    started = serving.start(plan, workload)
    assert isinstance(started, StartedPlan)
    own = (len(workload) - 1) / float(workload.arrival_s[-1] - workload.arrival_s[0])
    (point,) = sweep(serving, started, workload, [own], parse_slo([]))
    assert point.outcome is not None
    ours, theirs = point.outcome.metrics, replay(serving, started, workload).metrics
    assert ours["requests"] == 400
    assert ours["ttft_s"]["p99"] == pytest.approx(theirs["ttft_s"]["p99"], rel=1e-6)
    assert ours["e2e_s"]["mean"] == pytest.approx(theirs["e2e_s"]["mean"], rel=1e-6)


def test_latency_grows_with_the_rate_up_to_an_overload() -> None:
    """From a trickle to far beyond what a device takes: waits grow, the last rate is an overload, the knee is below."""
    serving, plan = serving_of("llama-3.1-8b", "h100-sxm-1"), parse_plan("tp1-s4")
    workload = parse_workload("synthetic:isl=512,osl=64,rate=1,n=60,seed=1")
    started = serving.start(plan, workload)
    assert isinstance(started, StartedPlan)
    points = sweep(serving, started, workload, [0.5, 4.0, 500.0], parse_slo([]))
    waits = [point.outcome.metrics["ttft_s"]["mean"] for point in points if point.outcome is not None]
    assert waits == sorted(waits)
    assert points[-1].outcome is not None
    assert points[-1].outcome.saturation is not None
    assert points[-1].outcome.saturation.verdict == "overloaded"
    last = knee(points)
    assert last is not None
    assert last.rate_per_s < 500.0


def test_the_knee_is_below_the_first_rate_that_is_not_kept_up_with() -> None:
    """A rate that works beyond one that does not is no knee: which requests meet is chance there."""
    slo, serving = parse_slo(["ttft_p99<=1s"]), serving_of("llama-3.1-8b", "h100-sxm-1")
    workload = parse_workload("synthetic:isl=8,osl=2,rate=1,n=4,seed=1")
    started = serving.start(parse_plan("tp1"), workload)
    assert isinstance(started, StartedPlan)
    outcome = replay(serving, started, workload)

    def point(rate: float, *, works: bool) -> RatePoint:
        return RatePoint(rate_per_s=rate, outcome=outcome, broken=() if works else slo.per_plan, is_short=False)

    points = [point(1, works=True), point(4, works=False), point(2, works=True), point(8, works=True)]
    found = knee(points)
    assert found is not None
    assert found.rate_per_s == 2
    assert knee([point(1, works=False), point(2, works=True)]) is None


def test_the_command_shows_each_plan_and_keeps_everything_in_json(tmp_path: Path) -> None:
    """A table and a knee by plan, a reason for one that cannot start, and the same in the file that -o writes."""
    out = tmp_path / "sweep.json"
    shown = _run(f"{_COMMAND} --plan tp1 --plan dp2 --plan tp16 --rates 2,8 --slo ttft_p99<=1s -o {out}").stdout
    assert shown.count("knee: keeps up with 8.00 requests/s, the highest rate tried") == 2
    assert "plan tp16 cannot start: needs 16 devices" in shown
    document = json.loads(out.read_text())
    assert [plan["plan"] for plan in document["plans"]] == ["tp1", "dp2"]
    assert [rate["rate_per_s"] for rate in document["plans"][0]["rates"]] == [2.0, 8.0]
    assert document["plans"][0]["knee_requests_per_s"] == 8.0
    assert document["rejected"][0]["plan"] == "tp16"
    assert document["made_by"]["command"][0] == "sweep"
    assert (
        json.loads(_run(f"{_COMMAND} --plan tp1 --rates 2:8:3 --json").stdout)["plans"][0]["rates"][1]["rate_per_s"]
        == 4.0
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--rates 8:2", "is neither LOW:HIGH"),
        ("--rates 1:2:1", "is neither LOW:HIGH"),
        ("--rates 1:2:3:4", "is neither LOW:HIGH"),
        ("--rates 1,1", "different rates"),
        ("--rates 0,1", "above 0"),
        ("--rates fast", "is neither"),
        ("--rates 1,2 --rate-scale 2", "--rates states the rates"),
        ("--rates 1:9999:999", "at most 200"),
    ],
)
def test_rates_that_are_none_are_refused(more: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each ends in one message that names the option, and nothing is simulated."""
    with pytest.raises(SystemExit) as stopped:
        main([*_COMMAND.split(), "--plan", "tp1", *more.split()])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_closed_loop_has_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """Its clients wait for answers: the rate is the server's."""
    words = "sweep --model tiny-llama --cluster h100-sxm-2 --plan tp1 --rates 1,2"
    with pytest.raises(SystemExit) as stopped:
        main([*words.split(), "--trace", "closed:isl=64,osl=8,concurrency=2"])
    assert stopped.value.code == 2
    assert "the rate of a closed loop" in capsys.readouterr().err
