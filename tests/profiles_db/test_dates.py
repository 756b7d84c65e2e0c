"""Days of measured runs, as clients state them."""

import pytest

from cluster_specs.errors import UserError
from profiles_db.recordings.dates import stated_day


@pytest.mark.parametrize("text", ["20261130-142501", "2026-11-30", "2026-11-30T14:25:01+00:00", "2026-11-30 14:25"])
def test_a_day_is_read_from_every_form(text: str) -> None:
    """The client's own form and ISO 8601 say the same day."""
    assert stated_day({"date": text}, "r.json") == "2026-11-30"


def test_a_result_without_a_date_has_no_day() -> None:
    """Clients that state none are read all the same."""
    assert stated_day({}, "r.json") is None


@pytest.mark.parametrize("value", ["20261330-142501", "yesterday", 20261130, "2026-11-30" + "x" * 60])
def test_what_is_no_date_is_refused(value: object) -> None:
    """A month 13, a word and a number are refused by place, with the forms that are read."""
    with pytest.raises(UserError, match=r"r\.json: date is .*must be a date such as 20261130-142501"):
        stated_day({"date": value}, "r.json")
