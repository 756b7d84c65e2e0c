"""The table of collective kinds is whole: distinct programs of nccl-tests, and each kind on the page of columns."""

import re
from pathlib import Path

from profiles_db.collective_kinds import COLLECTIVE_KINDS

_PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "measurements.md").read_text(encoding="utf-8")


def test_kinds_have_programs_of_their_own() -> None:
    """No two kinds are measured by one program of nccl-tests, and a bus factor is a share of the message or two."""
    assert len({kind.nccl_tests for kind in COLLECTIVE_KINDS.values()}) == len(COLLECTIVE_KINDS)
    assert all(0.0 < kind.bus_factor(ranks) <= 2.0 for kind in COLLECTIVE_KINDS.values() for ranks in (2, 8, 72))


def test_the_page_of_columns_names_every_kind() -> None:
    """docs/reference/measurements.md lists the kinds of the table and no other."""
    (listed,) = re.findall(r"^\*\*`collective`\*\*: `kind` ([^;]*);", _PAGE, re.MULTILINE)
    assert sorted((set(re.findall(r"\w+", listed)) - {"or"}) ^ set(COLLECTIVE_KINDS)) == []
