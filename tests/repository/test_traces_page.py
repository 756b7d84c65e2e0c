"""The page on traces is true: its files read, its commands run, and it has every format there is."""

import re
from pathlib import Path

import pytest

from profiles_db.recordings.tools import TOOLS
from simulator.cli import main
from simulator.workload.traces.formats import FORMAT_NAMES
from simulator.workload.traces.read_trace import read_measured, read_trace
from simulator.workload.workload import CappedLoop

_PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "traces.md").read_text(encoding="utf-8")
_FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL))
_COMMANDS = re.findall(r"^\$ apex (.*)$", _PAGE, re.MULTILINE)


def test_every_command_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command ends well on the page's own files, in the page's order, and reads the requests that are there."""
    monkeypatch.chdir(tmp_path)
    for name, content in _FILES.items():
        Path(name).write_text(content, encoding="utf-8")
    assert len(_COMMANDS) > 20
    for command in _COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main(command.split())
        assert stopped.value.code == 0, (command, capsys.readouterr().err)
    named = {word for command in _COMMANDS for word in command.split() if word in _FILES}
    assert named == set(_FILES)


def test_the_page_has_every_format() -> None:
    """Every name that --format takes stands on the page."""
    missing = [name for name in FORMAT_NAMES if name != "auto" and f"`{name}`" not in _PAGE]
    assert missing == []


def test_the_files_of_the_page_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    """The clients' files give measured times; a concurrency beside arrival times or a rate is a cap."""
    for name, content in _FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    recorded = (
        "result.json",
        "profile_export.jsonl",
        "benchmarks.json",
        "per_request_lifecycle_metrics.json",
        "requests.jsonl",
    )
    assert len(recorded) == len(TOOLS)
    for name in recorded:
        assert read_measured(tmp_path / name).measured.ttft_s[0] > 0
    assert read_trace(tmp_path / "own.jsonl").client == CappedLoop(concurrency=2)
    assert read_trace(tmp_path / "result.json").client == CappedLoop(concurrency=1)
