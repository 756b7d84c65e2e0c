"""The day on which a run was measured, as its client states it: ISO 8601, by the clock of the client."""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown

_KEY: Final = "date"
# vllm bench serve writes 20261130-142501, InferenceX and others an ISO date, with or without a time behind it.
_DAY: Final = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?:[-T ].{0,40})?")


def stated_day(document: Mapping[str, Any], place: str) -> str | None:
    """Return the day under ``date``, None where a result has none; raises ``UserError`` for what is no date."""
    value = document.get(_KEY)
    if value is None:
        return None
    found = _DAY.fullmatch(value) if isinstance(value, str) else None
    try:
        day = None if found is None else date(*map(int, found.groups()))
    except ValueError:  # there is no such day
        day = None
    if day is None:
        raise UserError(f"{place}: {_KEY} is {shown(value)}, must be a date such as 20261130-142501 or 2026-11-30")
    return day.isoformat()
