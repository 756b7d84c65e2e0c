"""What `apex search` prints answers the question: which plan, by how much, why not the others, how to start it."""

import pytest
from click.testing import CliRunner, Result

from simulator.cli import apex
from simulator.results.objective import metric_paths


def _search(*more: str, columns: int = 140, model: str = "llama-3.1-8b") -> Result:
    common = f"search --model {model} --cluster h100-sxm-4 --costs analytic --trace chat-synthetic --limit 40"
    return CliRunner().invoke(apex, [*common.split(), *more], env={"COLUMNS": str(columns)})


def test_answer_names_the_best_plan_what_the_others_lose_and_the_command() -> None:
    """The last lines name the first row's plan, where its time goes and the command that starts it."""
    lines = _search().stdout.splitlines()
    rows = [line for line in lines if line.startswith(("tp4 ", "dp4 ", "pp4 "))]
    assert rows[0].startswith("tp4 ")
    assert all(" % " in row and "decode" in row for row in rows[1:])
    assert any(line.startswith("best plan: tp4 on 4 devices, E2E mean ") for line in lines)
    assert any(line.startswith("  vllm serve MODEL --tensor-parallel-size 4 ") for line in lines)


def test_the_metric_ranked_by_is_always_shown() -> None:
    """Any objective is the first column, and a limit's metric stands in the table."""
    head = _search("--objective", "goodput_requests_per_s", "--slo", "itl_s.p95<=1").stdout.splitlines()[2]
    assert head.split()[:2] == ["plan", "goodput/s"]
    assert "ITL p95" in head


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_table_keeps_to_the_terminal_and_says_what_is_missing(columns: int) -> None:
    """No row of the ranking wraps; columns that do not fit are named."""
    printed = _search("--kv", "default,fp8", columns=columns).stdout
    table = printed.split("\n\n")[1].splitlines()
    assert max(map(len, table[:-1])) <= columns
    assert ("left out for width: " in printed) == (columns < 200)


def test_reasons_that_differ_in_numbers_are_one_line() -> None:
    """Refusals for the same cause are one line with the range of the numbers and some of the plans."""
    printed = _search(model="llama-3.1-405b")
    assert printed.exit_code == 3
    refused = [line for line in printed.stdout.splitlines() if line.startswith("  ")]
    assert len(refused) == 1
    assert "GiB per device" in refused[0]
    assert " to " in refused[0]
    assert "and 2 more" in refused[0]


def test_without_a_plan_that_keeps_the_limits_the_closest_is_named() -> None:
    """The last line says which plan breaks the fewest limits, and by how much."""
    last = _search("--slo", "ttft_s.p99<=1e-4", "--slo", "tpot_s.mean<=0.0035").stdout.splitlines()[-1]
    assert "closest is tp4, which breaks ttft_s.p99<=0.0001 with " in last
    assert last.endswith(" ms")


def test_help_names_every_metric() -> None:
    """Nobody has to provoke an error to learn what can be ranked by."""
    page = CliRunner().invoke(apex, ["search", "--help"]).stdout
    assert [path for path in metric_paths() if path.partition(".")[0] not in page] == []


def test_a_metric_nobody_can_know_is_an_error() -> None:
    """Ranking by money without a price is refused instead of ranking by the plans' names."""
    failed = _search("--objective", "usd_per_million_output_tokens")
    assert failed.exit_code == 1
    assert "states no price" in str(failed.exception)


def test_plans_that_answer_nothing_are_refused() -> None:
    """With a context shorter than every request no plan is best."""
    failed = _search("--max-model-len", "8")
    assert failed.exit_code == 3
    assert "no request is answered" in failed.stdout
