"""What every command does alike: no option twice, strict JSON, messages of a screen, no output over an input."""

import json
import os
from pathlib import Path

import click
import pytest

from cluster_specs.command_line import Command, Group, check_outputs, given, screenful, strict_json
from cluster_specs.errors import OutputError, UserError


def test_groups_give_their_commands_the_class() -> None:
    """A command added to a group of ours refuses repeated options without being told to."""

    @click.group(cls=Group)
    def group() -> None:
        """Hold one command."""

    @group.command()
    @click.option("--a")
    def inner(a: str) -> None:
        """Print nothing."""

    assert isinstance(inner, Command)
    assert given(click.Context(inner, info_name="inner"), "a") == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_become_null(value: float) -> None:
    """JSON has no NaN and no infinity: wherever one stands, the text still parses, and holds null."""
    text = strict_json({"a": [1.5, value], "b": {"c": (value,)}, "d": "NaN"})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [1.5, None],
        "b": {"c": [None]},
        "d": "NaN",
    }


def test_long_messages_keep_both_ends() -> None:
    """A message of 100 kB is cut to a screen; place and limit, which stand at its ends, stay."""
    text = screenful("trace.csv:7: " + "x" * 100_000 + ", must be a number")
    assert len(text) < 1_300
    assert text.startswith("trace.csv:7: ")
    assert text.endswith(", must be a number")
    assert screenful("short") == "short"


def test_no_output_over_an_input(tmp_path: Path) -> None:
    """An input is recognised under another name: a relative path, a symbolic link, a hard link."""
    source = tmp_path / "in.csv"
    source.write_text("rows")
    (tmp_path / "soft.csv").symlink_to(source)
    os.link(source, tmp_path / "hard.csv")
    for name in ("in.csv", "soft.csv", "hard.csv", "../" + tmp_path.name + "/in.csv"):
        with pytest.raises(UserError, match="is an input"):
            check_outputs([tmp_path / name], ["absent", None, "x" * 5000, "a\0b", source])
    with pytest.raises(UserError, match="is written already"):
        check_outputs([tmp_path / "out", None, tmp_path / "out"], [])
    with pytest.raises(OutputError, match="is no folder"):
        check_outputs([tmp_path / "absent" / "out"], [])
    check_outputs([tmp_path / "out", tmp_path / "other"], [source])
