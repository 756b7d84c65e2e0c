"""The generated reference of commands and the example of the library are what the program does today."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import simulator.simulate

_ROOT = Path(__file__).parents[2]


def test_command_reference_is_current() -> None:
    """docs/reference/cli.md is what the commands' own help says today (`make docs` rewrites it), in a new process.

    click keeps the help option a command was first asked with, so other tests would decide how it is spelt.
    """
    script = [sys.executable, str(_ROOT / "docs" / "cli_reference.py")]
    printed = subprocess.run(script, capture_output=True, check=True, text=True, cwd=_ROOT).stdout
    assert (_ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8") == printed


def test_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The example of `simulate` runs as it stands and prints a latency with its interval."""
    example = textwrap.dedent((simulator.simulate.__doc__ or "").split("::", 1)[1])
    exec(compile(example, "example", "exec"), {})  # noqa: S102 - our own docstring
    value, low, high = map(float, re.findall(r"[0-9.]+", capsys.readouterr().out))
    assert 0 < low <= value <= high
