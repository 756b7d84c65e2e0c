"""The engine decides as vLLM's own scheduler did in the logs that are kept of it."""

from collections import Counter

from tests.conformance.kept_logs import read
from tests.conformance.scheduler_cases import GROUPS
from tests.conformance.scheduler_logs import difference, engine_log, first_rows


def test_the_engine_decides_as_vllm_did() -> None:
    """Decisions, times, batches, queues and free blocks of every step are those of the logs, and what requests saw."""
    groups: Counter[str] = Counter()
    for version, case, theirs in read():
        ours = engine_log(case)
        found = difference(ours, theirs)
        assert found is None, f"vLLM {version}, {case['name']}: {found}\n{first_rows(ours, theirs)}"
        groups[case["name"].rsplit(":", 1)[0]] += 1
    assert set(groups) <= {*GROUPS, "pressure"}
    assert set(groups) > {name for name, draw in GROUPS.items() if draw.stages == (1,)}
    assert sum(groups.values()) > 100


def test_the_kept_cases_reach_the_rare_rules() -> None:
    """Among them are preemptions, prefix hits and requests that are refused, each in several."""
    logs = [log["requests"] for _, _, log in read()]
    assert sum(any(row[3] for row in rows) for rows in logs) > 10
    assert sum(any(row[4] for row in rows) for rows in logs) > 10
    assert sum(any(row[0] < 0 for row in rows) for rows in logs) > 10


def test_answers_push_prefixes_out() -> None:
    """Where answers and system prompts do not fit beside each other, vLLM finds less, and the engine as much less."""
    kept = {case["num_blocks"]: (case, log) for _, case, log in read() if case["name"].startswith("pressure")}
    shares = []
    for blocks in sorted(kept):
        case, theirs = kept[blocks]
        found, real = (sum(row[4] for row in log["requests"]) for log in (engine_log(case), theirs))
        assert found == real
        shares.append(found / sum(case["prompts"]))
    assert [round(share, 3) for share in shares] == [0.613, 0.684, 0.776]
