"""The page on the store tells of what is there."""

import re
from pathlib import Path

import pytest

from profiles_db.schema import FAMILIES, RUN
from simulator.cli import apex

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "measurements.md").read_text(encoding="utf-8")
COLUMNS = sorted({name for family in FAMILIES.values() for name in family.schema.names} | set(RUN.names))


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_explained(column: str) -> None:
    """A reader of the files finds each column on the page."""
    assert f"`{column}`" in PAGE


@pytest.mark.parametrize("line", re.findall(r"^\$ (apex .*?)\s*(?:#.*)?$", PAGE, flags=re.MULTILINE))
def test_every_command_parses(line: str) -> None:
    """A command of the page exists with the options it is shown with."""
    _, *words = line.split()
    command = apex
    context = apex.make_context("apex", [], resilient_parsing=True)
    while hasattr(command, "get_command") and words:
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
