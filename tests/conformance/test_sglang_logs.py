"""Logs of SGLang's own scheduler are kept, whole, and reach its rare rules.

The engine does not repeat them yet (`docs/reference/conformance.md`); `python -m tests.conformance.sglang_conformance`
compares both sides and says where they part.
"""

from tests.conformance.sglang_cases import GROUPS
from tests.conformance.sglang_conformance import kept_logs


def test_every_group_has_logs_in_which_everybody_is_answered() -> None:
    """Ten or more of every group; no request is left over, and no step ends before it starts."""
    logs = list(kept_logs())
    for group in GROUPS:
        assert sum(case["name"].startswith(group + ":") for case, _ in logs) >= 10
    for _, log in logs:
        assert all(request[2] >= request[1] >= request[0] >= 0 for request in log["requests"])
        assert all(end >= start >= decision for decision, start, end, *_ in log["steps"])


def test_the_kept_logs_reach_the_rare_rules() -> None:
    """Among them are retractions, prefixes found, and answers of one token, each in many."""
    requests = [request for _, log in kept_logs() for request in log["requests"]]
    assert sum(request[3] > 0 for request in requests) > 20
    assert sum(request[4] > 0 for request in requests) > 100
    assert sum(request[1] == request[2] for request in requests) > 50
