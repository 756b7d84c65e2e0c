"""README tells the truth: its example prints what it shows, its commands and options exist, its targets are there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from simulator.cli import apex

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_CODE = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL)) + "\n".join(
    re.findall(r"`((?:apex|make) [^`]+)`", _README)
)


def test_the_example_prints_what_it_shows() -> None:
    """Every line that README shows of its first search is printed by it, in that order; `...` stands for others."""
    command, shown = re.findall(
        r"^```console\n\$ apex (.*)\n```\n\n```\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL
    )[0]
    done = subprocess.run(
        [sys.executable, "-m", "simulator.cli", *command.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=_ROOT,
        env={**os.environ, "COLUMNS": "80"},
    )
    printed = iter(" ".join(line.split()) for line in done.stdout.splitlines())
    for line in shown.splitlines():
        wanted = " ".join(line.split())
        if not wanted or wanted == "...":
            continue
        start = wanted.removesuffix("...")  # a line may be cut short
        assert any(found == wanted or (start != wanted and found.startswith(start)) for found in printed), line


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^(?:\$ )?(apex .*?)\s*(?:#.*)?$", _CODE, re.MULTILINE))))
def test_every_command_exists_with_its_options(line: str) -> None:
    """A command of README is one of `apex`, and takes the options it is shown with."""
    _, *words = line.split()
    command: click.Command = apex
    context = apex.make_context("apex", [], resilient_parsing=True)
    while isinstance(command, click.Group) and words and words[0] != "...":
        found = command.get_command(context, words.pop(0).rstrip("`,"))
        assert found is not None, line
        command = found
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_every_target_of_make_exists() -> None:
    """README, CONTRIBUTING and the documentation name targets of the Makefile only."""
    targets = set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    pages = [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", _ROOT / "ARCHITECTURE.md", *(_ROOT / "docs").rglob("*.md")]
    named = {
        target
        for page in pages
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named - targets == set()
