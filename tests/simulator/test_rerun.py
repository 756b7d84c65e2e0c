"""A saved answer is made again by its own command, and with options changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from simulator.cli import apex, main

_SEARCH = "search --model tiny-llama --cluster h100-sxm-2 --no-interval --kv default,fp8"
_SIMULATE = "simulate --model tiny-llama --cluster h100-sxm-2 --plan tp2"
_LOAD = "--trace synthetic:isl=64,osl=8,rate=4,n=12,seed=1"


def _run(words: str, *more: str) -> Result:
    return CliRunner().invoke(apex, [*words.split(), *more])


@pytest.fixture(params=[_SEARCH, _SIMULATE], ids=["search", "simulate"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Make a saved answer of either command."""
    path = tmp_path / "answer.json"
    path.write_text(_run(f"{request.param} {_LOAD} --json").stdout)
    return path


def test_an_answer_says_what_made_it(saved: Path) -> None:
    """The command with the options that the answer depends on, and a digest by input."""
    made_by = json.loads(saved.read_text())["made_by"]
    assert made_by["command"][0] in {"search", "simulate"}
    assert made_by["command"][-2:] == _LOAD.split()
    assert {"--model", "--cluster", "--trace", "--costs", "version of apex"} <= made_by["rests_on"].keys()


def test_the_same_command_gives_the_same_answer(saved: Path) -> None:
    """Nothing differs, and the new answer is the saved one but for nothing."""
    done = _run("rerun", str(saved), "--json")
    assert "the same answer" in done.stderr
    assert json.loads(done.stdout) == json.loads(saved.read_text())


def test_another_load_is_named_and_shown_beside_the_first(saved: Path) -> None:
    """Twice the prompts: the trace differs, and the mean time to the first token is longer in the second column."""
    done = _run("whatif", str(saved), "--set", "length-scale=2")
    assert "inputs that differ: --trace" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("TTFT mean"))
    assert float(row.split()[-1]) > 1
    assert "--length-scale 2" in done.stdout.splitlines()[-1]


def test_the_new_answer_may_be_kept(saved: Path, tmp_path: Path) -> None:
    """What -o writes is an answer itself, of the changed command; the saved one is not written over."""
    out = tmp_path / "new.json"
    _run("whatif", str(saved), "--set", "limit=3", "-o", str(out))
    assert _run("rerun", str(out)).stdout == "the same answer: every metric of every plan is equal\n"
    refused = _run("whatif", str(saved), "--set", "limit=3", "-o", str(saved))
    assert "is an input" in str(refused.exception)


def test_options_are_changed_and_taken_away(tmp_path: Path) -> None:
    """A value replaces the old one, an empty one takes the option away, and a flag is turned on and off."""
    path = tmp_path / "answer.json"
    path.write_text(_run(f"{_SEARCH} {_LOAD} --slo ttft<=2s --slo tpot<=1s --json").stdout)
    changes = ("kv=", "slo=ttft<=3s", "interval=true", "fewer-devices=true")
    done = _run("whatif", str(path), *(word for change in changes for word in ("--set", change)))
    command = done.stdout.splitlines()[-1]
    assert "--kv" not in command
    assert command.count("--slo") == 1
    assert "--no-interval" not in command
    assert "--interval" in command
    assert "--fewer-devices" in command


def test_a_changed_file_is_what_differs(tmp_path: Path) -> None:
    """A trace edited since is named, and so is what it moved."""
    trace, path = tmp_path / "trace.jsonl", tmp_path / "answer.json"
    rows = [{"arrival_s": float(i), "prompt_tokens": 50, "output_tokens": 5} for i in range(6)]
    trace.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    path.write_text(_run(f"{_SIMULATE} --trace {trace} --json").stdout)
    trace.write_text("".join(f"{json.dumps(row | {'output_tokens': 9})}\n" for row in rows))
    done = _run("rerun", str(path))
    assert "changed since: --trace" in done.stdout
    assert "tp2: " in done.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ratescale=2", "did you mean rate-scale?"),
        ("rate-scale", "is not OPTION=VALUE"),
        ("json=true", "is not OPTION=VALUE"),
        ("allow-unsupported=maybe", "the value of a flag is true"),
        ("rate-scale=2 rate-scale=3", "is set twice"),
        ("rate-scale=fast", "is not a valid float"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(
    saved: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name, a value, a repeat: one message each, exit code 2, and nothing is printed as an answer."""
    words = [word for one in change.split() for word in ("--set", one)]
    with pytest.raises(SystemExit) as stopped:
        main(["whatif", str(saved), *words])
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert said in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "made_by"),
        ([], "made_by"),
        ({"made_by": {"command": "search", "rests_on": {}}}, "a list of words"),
        ({"made_by": {"command": [], "rests_on": {}}}, "a list of words"),
        ({"made_by": {"command": ["db"], "rests_on": {}}}, "must be search or simulate"),
        ({"made_by": {"command": ["search"], "rests_on": {"--model": 1}}}, "a digest by input"),
        ({"made_by": {"command": ["search", "--no-such"], "rests_on": {}}}, "no-such"),
    ],
)
def test_a_file_that_is_no_answer_is_refused(
    document: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of other kinds and damaged answers end in one message that names the place."""
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SystemExit) as stopped:
        main(["rerun", str(path)])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
