"""Ctrl-C ends a simulation that would go on for minutes, on the main thread and on those of a search."""

import signal
import subprocess
import sys

import pytest

from simulator.search.fan_out import run_all

# Says so once a thread is inside the compiled loop: its topmost Python frame is then the one that calls the loop.
OBSERVER = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)

def watch():
    tick = threading.Event()
    while not any(frame.f_code.co_name == "run_compiled" for frame in sys._current_frames().values()):
        tick.wait(0.01)
    print("running", file=sys.stderr, flush=True)

threading.Thread(target=watch, daemon=True).start()
"""

ENDLESS_RUN = """
import numpy as np
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import Workload

limits = EngineLimits(policy="vllm-v1", max_num_seqs=1, max_num_batched_tokens=16, max_model_len=1 << 31,
                      block_size=16, num_gpu_blocks=1 << 28)
tables = linear_tables(max_num_seqs=1, max_num_batched_tokens=16, step_ps=1000, token_ps=0)
endless = Workload(name="endless", arrival_s=np.zeros(2), prompt_tokens=np.full(2, 8),
                   output_tokens=np.full(2, (1 << 31) - 8))
try:
    run_replicas(tables, limits, endless, leap=False)
except KeyboardInterrupt:
    sys.exit(7)
"""

# Speculative decoding steps one by one: hours of work for these answers.
COMMAND = "from simulator.cli import main\nmain({arguments})\n"
FLAGS = (
    "--model llama-3.1-8b --cluster h100-sxm-2 --plan tp1 --max-num-seqs 64 --speculative-tokens 1 "
    "--speculative-acceptance 0.5 --trace synthetic:isl=10,osl=120000,rate=100,n=100000"
)


def interrupted(script: str) -> tuple[int, str]:
    """Send SIGINT to a script once it is inside the compiled loop: its exit code, and what it wrote from then on."""
    with subprocess.Popen(
        [sys.executable, "-c", OBSERVER + script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            assert "running\n" in iter(process.stderr.readline, "")
            process.send_signal(signal.SIGINT)
            return process.wait(), process.stderr.read()
        finally:
            process.kill()  # a run that cannot be interrupted outlives this test's limit


def test_a_library_run_raises_keyboard_interrupt() -> None:
    """A run of thousands of millions of steps comes back to the interpreter, where the signal is seen."""
    assert interrupted(ENDLESS_RUN)[0] == 7


@pytest.mark.parametrize(("command", "more"), [("simulate", []), ("search", ["--plan", "dp2-tp1", "--threads", "2"])])
def test_a_command_says_interrupted_and_exits_130(command: str, more: list[str]) -> None:
    """Simulate and search, whose threads the signal does not reach by itself, end with one word and code 130."""
    code, rest = interrupted(COMMAND.format(arguments=[command, *FLAGS.split(), *more]))
    assert code == 130
    assert rest.splitlines()[-1] == "interrupted"
    assert "Traceback" not in rest


def test_one_failure_ends_the_others() -> None:
    """Where one item raises, the error comes out and what has not begun never does."""
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 0:
            raise ValueError("first")
        return item

    with pytest.raises(ValueError, match="first"):
        run_all(work, range(1000), threads=1)
    assert len(begun) < 1000
    assert run_all(work, [3, 1, 2], threads=2) == [3, 1, 2]
