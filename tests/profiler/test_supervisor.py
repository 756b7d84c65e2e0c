"""Ranks that die, ask to be replaced, or lose the process that looks after them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="a rank measures with torch")

from profiler.errors import RENEW_EXIT_CODE
from profiler.supervisor import supervise

PATIENCE_S = 120


@pytest.fixture
def rank(tmp_path, monkeypatch):
    """Return a function that sets how a rank ends each time it is started, and the starts so far as its arguments."""
    starts = tmp_path / "starts"

    def ending(codes):
        (tmp_path / "scripted_rank.py").write_text(
            "import sys, pathlib\n"
            f"starts = pathlib.Path({str(starts)!r})\n"
            "with starts.open('a') as file: file.write(' '.join(sys.argv[1:]) + '\\n')\n"
            f"codes = {codes!r}\n"
            "sys.exit(codes[min(len(starts.read_text().splitlines()), len(codes)) - 1])\n"
        )
        return starts

    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return ending


def test_a_process_may_ask_for_a_new_one_as_often_as_it_likes(rank):
    """Each replaced process has stored a row, so replacements are not counted as deaths; time is handed on."""
    starts = rank([RENEW_EXIT_CODE] * 9 + [0])
    given = ["--budget", "100s", "--db", "x", "--budget=99s"]
    assert supervise("scripted_rank", 1, given, time_option="--budget", limit_s=100.0) == 0
    lines = starts.read_text().splitlines()
    assert len(lines) == 10
    left = [float(line.split()[-1].removesuffix("s")) for line in lines]
    assert all(line.startswith("--db x --budget ") for line in lines)
    assert left == sorted(left, reverse=True)


def test_deaths_are_counted_and_end_the_run(rank, capfd):
    """A rank that keeps dying is given up after five restarts, with a hint."""
    starts = rank([70])
    assert supervise("scripted_rank", 1, [], time_option="--budget") == 1
    assert len(starts.read_text().splitlines()) == 6
    assert "the same command resumes" in capfd.readouterr().err


@pytest.mark.parametrize("code", [0, 1, 2, 130, 143])
def test_an_end_that_a_restart_cannot_mend_is_handed_on(rank, code):
    """Success, a mistake and a signal end the run with the rank's own code."""
    starts = rank([code])
    assert supervise("scripted_rank", 1, [], time_option="--budget") == code
    assert len(starts.read_text().splitlines()) == 1


def test_a_rank_whose_supervisor_was_killed_ends_after_its_point(tmp_path):
    """SIGKILL of the command leaves no process behind, and the same command resumes with every row."""
    db = tmp_path / "db"
    command = [sys.executable, "-m", "simulator.cli", "profile", "--device", "cpu", "--families", "gemm"]
    command += ["--dtypes", "bf16", "--db", str(db), "--exhaustive", "--json"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not any(path.stat().st_size for path in (db / ".profile").glob("rows-*.jsonl")):
        assert time.monotonic() < deadline, "no row was measured"
        time.sleep(0.02)
    (rank,) = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True).stdout.split()
    run.send_signal(signal.SIGKILL)
    run.wait()
    while Path(f"/proc/{rank}").exists() and "zombie" not in Path(f"/proc/{rank}/status").read_text():
        assert time.monotonic() < deadline, "the rank goes on alone"
        time.sleep(0.1)
    done = subprocess.run([*command, "--budget", "1s"], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    outcome = json.loads(done.stdout)
    assert outcome["already"] + outcome["recovered"] > 0
