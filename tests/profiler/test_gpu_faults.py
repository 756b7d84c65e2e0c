"""What a kernel can do to its process on a real GPU: faults, captures that fail, memory that runs out."""

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Each case runs in a process of its own: what it does to the device must not reach the other tests.
_SCRIPT = """
import json, sys, torch
from profiler.backend import Prepared
from profiler.bench import Bench
from profiler.instruments.throttle import ThrottleCounters
from profiler.kernels.buffers import Buffers
from profiler.machine import Machine
from profiler.point import OpShape
from profiler.ranks import RankPlace
from profiler.timing import TimingPolicy

device = torch.device("cuda")
x = torch.ones(1024, device=device)
beyond = torch.full((1024,), 1 << 20, device=device)
launches = {
    "good": lambda i: x * 2,
    "synchronises": lambda i: x.sum().item(),
    "faults": lambda i: x[beyond],
    "runs out": lambda i: torch.empty(1 << 50, dtype=torch.uint8, device=device),
    "spins": lambda i: torch.cuda._sleep(1_000_000),
}

class Cases:
    name = "cases"
    def kernels_for(self, op):
        return (op.shape["op"],)
    def prepare(self, op, kernel, buffers):
        return Prepared(launches[kernel], 1)

machine = Machine.open("cuda", None, RankPlace(), threads=1)
policy = TimingPolicy(warmup_s=0.01, min_s=0.0, max_s=0.1)
bench = Bench(device, [Cases()], Buffers(device, cold_bytes=1 << 20, seed=0), policy=policy,
              throttle=ThrottleCounters(None), sm_clock_mhz=machine.sm_clock_mhz)
told = []
for name in sys.argv[1:]:
    op = OpShape.of("elementwise", dtype="fp32", op=name, rows=1, width=1024, io_bytes=4096)
    (point,) = bench.place(op, device_name="x", cache="hot")
    rows = bench.measure(point)
    told.append({"rows": rows, "usable": bench.is_usable})
print(json.dumps(told))
"""


def measured(*names):
    """Measure the named cases one after the other in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def healing():
    """Cases after which the next point is to be measured as if they had not been; starting a process takes seconds."""
    return measured("spins", "runs out", "good", "synchronises", "good", "synchronises")


def modes(case):
    return [(row["launch"], row["status"]) for row in case["rows"]]


def test_a_spin_of_known_length_takes_its_cycles(healing):
    """A kernel that spins for a million SM cycles is timed at a million over the clock read while it ran."""
    (row,) = healing[0]["rows"]
    if row["sm_clock_mhz"] is None:
        pytest.skip("NVML does not tell the clock")
    assert row["latency_s"] == pytest.approx(1e6 / (row["sm_clock_mhz"] * 1e6), rel=0.05)


def test_out_of_memory_is_a_status_and_the_next_point_is_a_graph_again(healing):
    """Memory that cannot be had ends the point alone."""
    oom, after = healing[1:3]
    assert oom["rows"][0]["status"] == "oom"
    assert oom["usable"]
    assert modes(after) == [("graph", "ok")]


def test_a_kernel_that_synchronises_is_measured_eagerly_and_the_bench_knows_its_own_state(healing):
    """Two rows, said and measured; afterwards either points are captured as before or the process asks to go."""
    first, second, third = healing[3:]
    assert modes(first) == [("graph", "unsupported"), ("eager", "ok")]
    if first["usable"]:
        assert modes(second) == [("graph", "ok")]
        assert "could not be captured before" in third["rows"][0]["note"]


def test_a_fault_is_told_and_marks_the_process_as_lost():
    """An index out of range gives an error row, and the bench says that nothing after it can be believed."""
    before, fault, after = measured("good", "faults", "good")
    assert before["rows"][0]["status"] == "ok"
    assert fault["rows"][0]["status"] == after["rows"][0]["status"] == "error"
    assert before["usable"]
    assert not fault["usable"]
