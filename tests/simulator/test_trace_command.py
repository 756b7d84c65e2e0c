"""`apex trace` from the command line."""

import json
from pathlib import Path

import pytest

from simulator.cli import main
from simulator.workload.traces.read_trace import read_trace


def apex(*arguments: str) -> int:
    """Run the command line in this process; return its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_generate_convert_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What generate writes, convert carries over and describe reports."""
    first, second = tmp_path / "a.jsonl", tmp_path / "b.parquet"
    assert apex("trace", "generate", "sessions:chat,n=20,turns=3,system=64", "-o", str(first)) == 0
    assert apex("trace", "convert", str(first), str(second), "--length-scale", "1,0.5", "--rate-scale", "2") == 0
    before, after = read_trace(first), read_trace(second)
    assert len(before) == len(after)
    assert after.prefix is not None
    assert after.after is not None
    assert abs(after.output_tokens.sum() * 2 - before.output_tokens.sum()) <= len(before)
    capsys.readouterr()
    assert apex("trace", "describe", str(second), "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["requests"] == len(after)
    assert figures["prompt_tokens"]["total"] == int(after.prompt_tokens.sum())
    assert figures["turns_after_another"] == int((after.after >= 0).sum())
    assert 0 < figures["reusable_prompt_tokens_frac"] < 1


def test_describe_prints_a_table_and_notes_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures go to stdout, what was dropped to stderr."""
    path = tmp_path / "burst.csv"
    path.write_text("Timestamp,Model,Request tokens,Response tokens\n1,a,10,5\n2,a,10,0\n4,a,30,5\n")
    assert apex("trace", "describe", str(path)) == 0
    printed = capsys.readouterr()
    assert "requests                   2\n" in printed.out
    assert "0.333 requests/s" in printed.out
    assert "dropped 1 failed requests" in printed.err


def test_a_trace_without_output_has_no_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The spread of lengths that are all 0 is unknown, not a division by zero; the table fits 80 columns."""
    path = tmp_path / "prefill.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,120000,0\n1,50,0\n")
    assert apex("trace", "describe", str(path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split()[:3] == ["output", "0", "-"]
    assert max(map(len, lines)) <= 80


def test_closed_loop_has_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """A closed loop's rate is the server's doing, so none is printed."""
    assert apex("trace", "describe", "closed:isl=64,osl=16,concurrency=4") == 0
    assert "closed loop at 4, 8 warm-up requests" in capsys.readouterr().out


def test_columns_and_units_from_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown keys read once named."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"t": 0, "i": 8, "o": 1}\n{"t": 2000, "i": 8, "o": 1}\n')
    flags = ["--format", "apex", "--time-unit", "ms"]
    for role in ("time=t", "prompt=i", "output=o"):
        flags += ["--column", role]
    assert apex("trace", "describe", str(path), "--json", *flags) == 0
    assert json.loads(capsys.readouterr().out)["span_s"] == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("describe", "nope.csv"), "error: trace nope.csv: no such trace file"),
        (("describe", "chat-synthetic", "--length-scale", "a"), "'a' is not a number or two"),
        (("describe", "chat-synthetic", "--column", "prompt"), "'prompt' is not ROLE=KEY"),
        (("describe", "chat-synthetic", "--rate-scale", "0"), "rate_scale is 0.0, must be a positive number"),
        (("generate", "closed:isl=9,osl=9,concurrency=2", "-o", "OUT/x.csv"), "csv cannot hold"),
    ],
)
def test_mistakes_end_in_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    """A user's mistake is one line on stderr, exit code 2, nothing written."""
    assert apex("trace", *(part.replace("OUT", str(tmp_path)) for part in arguments)) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As for every command, a fault of the disk is told from a mistake in the flags."""
    assert apex("trace", "generate", "synthetic:chat,rate=1,n=2", "-o", str(tmp_path / "none" / "x.csv")) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
