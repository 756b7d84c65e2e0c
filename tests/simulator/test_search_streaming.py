"""A search over a workload in parts ranks as one over the whole, in memory that does not grow with the requests."""

from pathlib import Path

import pytest

from simulator.commands.progress import Progress, time_left
from simulator.feasible.plan_space import Axes
from simulator.results.metric_spellings import STATISTICS
from simulator.results.objective import parse_objective, parse_slo
from simulator.search import search as searching
from simulator.search.search import at_once, search, with_intervals
from simulator.simulate import SimulatedPlan
from simulator.workload.parse import parse_workload
from simulator.workload.parse_parts import parse_parts
from simulator.workload.parts import REQUEST_BYTES, WHOLE_HINT, NotStreamableError
from tests.simulator.deployments import serving_of

_TRAFFIC = "synthetic:chat,rate=20,n=400,seed=3"


def test_streamed_search_ranks_as_a_whole_one() -> None:
    """Parts of 64 requests: the same order, the same means to rounding, quantiles and intervals within 0.1 %."""
    objective = parse_objective("e2e_s.mean")
    found = []
    for workload in (parse_workload(_TRAFFIC), parse_parts(_TRAFFIC, part_requests=64)):
        serving = serving_of("llama-3.1-8b", "l40s-4")
        result = search(serving, workload, objective)
        found.append(with_intervals(result, serving, workload, first=3))
    whole, streamed = found
    assert [str(one.plan) for one in streamed.ranked] == [str(one.plan) for one in whole.ranked]
    for ours, theirs in zip(streamed.ranked, whole.ranked, strict=True):
        assert isinstance(ours, SimulatedPlan)
        assert ours.metrics["e2e_s"]["mean"] == pytest.approx(theirs.metrics["e2e_s"]["mean"], rel=1e-12)
        for statistic in STATISTICS:
            value = theirs.metrics["ttft_s"][statistic]
            assert ours.metrics["ttft_s"][statistic] == pytest.approx(value, rel=1.001e-3)
        assert "ttft_s.p99" in ours.approximate
    for ours, theirs in zip(streamed.ranked[:3], whole.ranked[:3], strict=True):
        assert ours.interval is not None
        assert theirs.interval is not None
        assert ours.interval["e2e_s.mean"] == pytest.approx(theirs.interval["e2e_s.mean"], rel=1.001e-3)


def test_plans_that_cannot_be_streamed_are_refused_by_name() -> None:
    """Ranks of attention data parallelism step together: with parts such a plan is refused, and says what would do."""
    serving = serving_of("deepseek-v3", "h200-sxm-8")
    found = search(serving, parse_parts(_TRAFFIC), parse_objective("e2e_s"))
    refused = {str(one.plan): one.reason for one in found.refused}
    assert any(str(one.plan).startswith("tp8") for one in found.ranked)
    reasons = [reason for plan, reason in refused.items() if plan.startswith("attn.dp8")]
    assert reasons
    assert {"cannot be streamed" in reason and WHOLE_HINT in reason for reason in reasons} == {True}, reasons


@pytest.mark.parametrize(
    ("axes", "objective", "says"),
    [
        (Axes(pools=True), "e2e_s", "go from one pool to the other"),
        (None, "sustainable_requests_per_s", "the trace is repeated at other rates"),
    ],
)
def test_what_needs_all_requests_is_refused(axes: Axes | None, objective: str, says: str) -> None:
    """Two pools and a sustainable rate are refused before any plan is judged."""
    with pytest.raises(NotStreamableError, match=says):
        search(
            serving_of("llama-3.1-8b", "l40s-4"),
            parse_parts(_TRAFFIC),
            parse_objective(objective),
            axes=axes,
            slo=parse_slo(["ttft_s.p99<=2"]),
        )


def test_whole_runs_take_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 GiB hold four runs of two million requests in half of it, parts as many as there are threads."""
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**21}
    monkeypatch.setattr(searching.os, "sysconf", sizes.__getitem__)

    class Long:
        def __len__(self) -> int:
            return 2_000_000

    assert 2**32 // (REQUEST_BYTES * 2_000_000) == 4
    assert at_once(Long(), 16) == 4  # type: ignore[arg-type]  # its length alone counts
    assert at_once(Long(), 3) == 3  # type: ignore[arg-type]
    assert at_once(parse_parts(_TRAFFIC), 16) == 16


def test_progress_tells_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    """In a log there is a line every ten seconds; plans kept before tell nothing of the rate."""
    clock = iter([0.0, 0.0, 1.0, 12.0, 13.0, 22.5, 23.0]).__next__
    progress = Progress("plan", known=100, now=clock)
    for done in (0, 101, 112, 113, 150, 200):
        progress(done, 200)
    assert capsys.readouterr().err.splitlines() == [
        "112 of 200 plans, 1 min 28 s to go",
        "150 of 200 plans, 22 s to go",
        "200 of 200 plans",
    ]
    assert time_left(7384) == "2 h 3 min"


def test_a_short_job_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A search of a second needs no progress."""
    progress = Progress("plan", now=iter([0.0, 0.1, 0.5, 1.0]).__next__)
    for done in (0, 1, 2):
        progress(done, 2)
    assert capsys.readouterr().err == ""


def test_a_long_trace_is_streamed_by_the_command(tmp_path: Path) -> None:
    """`apex search --stream` says which figures are approximate, plan by plan."""
    import json

    from click.testing import CliRunner

    from simulator.commands.search import search as command

    out = tmp_path / "found.json"
    served = ["--model", "llama-3.1-8b", "--cluster", "l40s-4", "--trace", _TRAFFIC, "--stream", "-o", str(out)]
    ran = CliRunner().invoke(command, served, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    plans = json.loads(out.read_text())["plans"]
    assert plans
    assert all("ttft_s.p99" in plan["approximate"]["metrics"] for plan in plans)
