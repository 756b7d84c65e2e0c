"""Ranks that die, ask to be replaced, or lose the process that looks after them."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="a rank measures with torch")

from profiler.errors import RENEW_EXIT_CODE
from profiler.run import StopSignal
from profiler.supervisor import supervise


@pytest.fixture
def rank(tmp_path, monkeypatch):
    """Return a function that sets how a rank ends each time it is started, and the starts so far as its arguments."""
    starts = tmp_path / "starts"

    def ending(codes, *, before=""):
        (tmp_path / "scripted_rank.py").write_text(
            "import os, signal, sys, pathlib\n"
            f"starts = pathlib.Path({str(starts)!r})\n"
            "with starts.open('a') as file: file.write(' '.join(sys.argv[1:]) + '\\n')\n"
            f"codes = {codes!r}\n"
            f"{before}\n"
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


@pytest.fixture
def disposition():
    """Return a function that sets what this process does at a signal; what it did before comes back."""
    previous = {}

    def of(number, handler):
        previous.setdefault(number, signal.signal(number, handler))

    yield of
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("handler", "code", "starts"),
    [(signal.default_int_handler, 70, 1), (signal.SIG_IGN, 0, 2)],
    ids=["heard", "ignored"],
)
def test_ctrl_c_ends_a_run_unless_it_was_started_to_ignore_it(rank, disposition, handler, code, starts):
    """A run in the background of a script, which its shell starts with SIGINT ignored, outlives a Ctrl-C there."""
    disposition(signal.SIGINT, handler)
    # The rank itself is deaf: the signal that is handed on to it may come before its own end.
    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    started = rank([70, 0], before=f"{deaf}; os.kill(os.getppid(), signal.SIGINT)")
    assert supervise("scripted_rank", 1, [], time_option="--budget") == code
    assert len(started.read_text().splitlines()) == starts


@pytest.mark.parametrize(("handler", "name"), [(signal.default_int_handler, "SIGINT"), (signal.SIG_IGN, None)])
def test_a_rank_hears_the_signals_that_its_run_does(disposition, handler, name):
    """SIGINT asks a rank to end after its point, unless it is ignored there too; afterwards all is as it was."""
    disposition(signal.SIGINT, handler)
    stop = StopSignal()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.name == name
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_rank_whose_supervisor_was_killed_ends_after_its_point(tmp_path, start, wait_until, has_ended):
    """SIGKILL of the command leaves no process behind, and the same command resumes with every row."""
    db = tmp_path / "db"
    command = [sys.executable, "-m", "simulator.cli", "profile", "--device", "cpu", "--families", "gemm"]
    command += ["--dtypes", "bf16", "--db", str(db), "--exhaustive", "--json"]
    run = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any(path.stat().st_size for path in (db / ".profile").glob("rows-*.jsonl")))
    (rank,) = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True).stdout.split()
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_until(lambda: has_ended(rank))
    done = subprocess.run([*command, "--budget", "1s"], capture_output=True, text=True, check=True)
    outcome = json.loads(done.stdout)
    assert outcome["already"] + outcome["recovered"] > 0


def test_a_rank_that_waits_for_others_ends_with_its_launcher(tmp_path, start, wait_until, has_ended):
    """SIGKILL of a launcher whose other rank never came: the rank it has started does not wait on for minutes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    env = {**os.environ, **{name: str(value) for name, value in place.items()}, "MASTER_ADDR": "127.0.0.1"}
    rank = [sys.executable, "-m", "profiler", "--device", "cpu", "--families", "gemm", "--db", str(tmp_path)]
    script = f"import subprocess; rank = subprocess.Popen({rank!r}); print(rank.pid, flush=True); rank.wait()"
    launcher = start([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE)
    (pid,) = launcher.stdout.readline().split()

    def is_waiting():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(is_waiting)
    launcher.send_signal(signal.SIGKILL)
    wait_until(lambda: has_ended(pid))
