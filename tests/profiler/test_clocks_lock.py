"""Locking clocks: what is in force is what is reported, and every way out gives the clock back."""

import signal
import subprocess
import sys

import pytest

from profiler.instruments.clocks import NvmlClocks, open_clock_control, sm_clock_under_load
from profiler.instruments.nvml import Nvml, NvmlError


@pytest.fixture
def gpu(fake_nvml):
    with Nvml() as nvml:
        yield nvml.gpus()[0]


def _clocks(gpu):
    return NvmlClocks(gpu, lambda: None, settle_s=0.0, sample_s=0.0)


def test_a_lock_is_read_back_under_load_and_restored(fake_nvml, gpu):
    """The row's clock is the one asked for, the driver is free again afterwards."""
    with _clocks(gpu) as clocks:
        lock = clocks.lock(1410)
        assert (lock.clock_mhz, lock.sm_clock_mhz, lock.note) == (1410, 1410, "")
        assert fake_nvml.locked_mhz() == 1410
    assert fake_nvml.locked_mhz() is None
    assert fake_nvml.changes() == [("lock", 0, 1410), ("reset", 0, 0)]


def test_a_sweep_moves_the_lock_and_restores_once(fake_nvml, gpu):
    """Clocks of a sweep replace each other without being given back in between."""
    with _clocks(gpu) as clocks:
        assert [clocks.lock(mhz).clock_mhz for mhz in (1980, 1410, 810)] == [1980, 1410, 810]
    assert [name for name, _, _ in fake_nvml.changes()] == ["lock", "lock", "lock", "reset"]


def test_a_clock_between_two_steps_is_asked_for_by_the_nearest(fake_nvml, gpu):
    """A request that is no supported step is snapped by us, and said."""
    with _clocks(gpu) as clocks:
        lock = clocks.lock(1000)
    assert lock.clock_mhz == 1005
    assert "1000 MHz is no supported clock" in lock.note


def test_a_clock_snapped_elsewhere_by_the_driver_is_reported_as_it_is(fake_nvml, gpu):
    """The row carries the clock in force, never the one wished for."""
    fake_nvml.set(snap_mhz=1200)
    with _clocks(gpu) as clocks:
        lock = clocks.lock(1410)
    assert (lock.requested_mhz, lock.clock_mhz, lock.sm_clock_mhz) == (1410, 1200, 1200)
    assert "asked for 1410 MHz, the driver locked 1200 MHz" in lock.note


def test_a_power_cap_below_the_lock_keeps_the_lock_and_is_named(fake_nvml, gpu):
    """A GPU pulled below its lock by the power cap is locked still; both clocks and the cause are told."""
    fake_nvml.set(cap_mhz=1755, reasons=0x4)
    with _clocks(gpu) as clocks:
        lock = clocks.lock(1980)
    assert (lock.clock_mhz, lock.sm_clock_mhz) == (1980, 1755)
    assert "sw_power_cap" in lock.note


def test_a_lock_the_driver_accepts_but_does_not_apply_is_no_lock(fake_nvml, gpu):
    """A clock that runs above its lock is reported unlocked, and the useless lock is taken back."""
    fake_nvml.set(ignore_lock=1)
    with _clocks(gpu) as clocks:
        lock = clocks.lock(1410)
        assert (lock.clock_mhz, lock.sm_clock_mhz) == (None, 1980)
        assert "1980" in lock.note
        assert fake_nvml.locked_mhz() is None


@pytest.mark.parametrize(("code", "word"), [(4, "Permission"), (3, "Not Supported"), (15, "lost")])
def test_a_refused_lock_is_one_sentence_and_the_run_goes_on_unlocked(fake_nvml, gpu, code, word):
    """Without permission nothing raises, nothing is left behind, and the clock under load is known all the same."""
    fake_nvml.fail("nvmlDeviceSetGpuLockedClocks", code)
    with _clocks(gpu) as clocks:
        lock = clocks.lock(1410)
        assert (lock.clock_mhz, lock.sm_clock_mhz) == (None, 1980)
        assert lock.note == clocks.refusal
        assert word in lock.note
        assert "clock_mhz = null" in lock.note
    assert fake_nvml.changes() == []


def test_an_unreadable_clock_leaves_the_lock_and_says_so(fake_nvml, gpu):
    """A lock that cannot be read back is reported as asked, with the doubt in the note."""
    fake_nvml.fail("nvmlDeviceGetClockInfo", 3)
    with _clocks(gpu) as clocks:
        lock = clocks.lock(1410)
        assert (lock.clock_mhz, lock.sm_clock_mhz) == (1410, None)
        assert "cannot be read back" in lock.note


def test_an_exception_gives_the_clock_back_and_passes_through(fake_nvml, gpu):
    """Whatever ends a sweep ends the lock."""

    def sweep() -> None:
        with _clocks(gpu) as clocks:
            clocks.lock(1410)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sweep()
    assert fake_nvml.changes() == [("lock", 0, 1410), ("reset", 0, 0)]
    assert fake_nvml.locked_mhz() is None


def test_a_failing_restore_names_the_gpu_and_the_command(fake_nvml, gpu):
    """When the driver refuses to take the clock back, the person learns what to type."""
    clocks = _clocks(gpu)
    clocks.lock(1410)
    fake_nvml.fail("nvmlDeviceResetGpuLockedClocks", 15)
    with pytest.raises(NvmlError, match="GPU-fake-0 keeps its locked clock") as caught:
        clocks.restore()
    assert "nvidia-smi --reset-gpu-clocks" in caught.value.hint
    fake_nvml.fail("nvmlDeviceResetGpuLockedClocks", 0)
    clocks.restore()


def test_a_load_that_fails_while_the_clock_is_read_is_not_hidden(fake_nvml, gpu):
    """An error of the load reaches the caller instead of an idle clock."""

    def broken() -> None:
        raise MemoryError("no room for the load")

    with pytest.raises(MemoryError, match="no room"):
        sm_clock_under_load(gpu, broken)


def test_without_a_gpu_the_control_refuses_by_name():
    """A CPU run takes the same path and says why its rows are unlocked."""
    with open_clock_control(None, why="a CPU's clock is not ours to lock") as clocks:
        lock = clocks.lock(1410)
        assert lock.clock_mhz is None
        assert lock.note == clocks.refusal == "a CPU's clock is not ours to lock"
        assert clocks.supported_mhz() == ()


_CHILD = """
import os, signal, sys
from profiler.instruments.clocks import NvmlClocks
from profiler.instruments.nvml import Nvml
gpu = Nvml().gpus()[0]
clocks = NvmlClocks(gpu)
clocks.__enter__()
assert clocks.lock(1410).clock_mhz == 1410
print("locked", flush=True)
if sys.argv[1] == "exit":
    sys.exit(3)
if sys.argv[1] == "os-exit":
    os._exit(3)
if sys.argv[1] == "raise":
    raise RuntimeError("sibling lost")
if sys.argv[1] == "fork":
    worker = os.fork()
    if worker == 0:
        clocks.restore()
        sys.exit(0)
    os.waitpid(worker, 0)
    print("worker gone", flush=True)
if sys.argv[1] == "stuck":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print(f"told {sys.stdin.readline().strip()}", flush=True)
"""


@pytest.fixture
def locker(fake_nvml, start):
    """Return a function that starts a process which locks the clock and then goes on in some way, for ever in most."""

    def started(way, *, first=":"):
        command = ["sh", "-c", f'{first}; exec "$@"', "sh", sys.executable, "-c", _CHILD, way]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        child = start(command, env=fake_nvml.environment, **pipes)
        assert child.stdout.readline() == "locked\n"
        return child

    return started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_gives_the_clock_back_and_still_ends_the_process(fake_nvml, locker, number):
    """The parent sees the death it caused, and the clock is free by then."""
    child = locker("wait")
    child.send_signal(number)
    assert child.wait() == -number
    assert fake_nvml.locked_mhz() is None
    assert fake_nvml.last_changed_by() == child.pid


def test_a_signal_ignored_since_the_start_ends_neither_the_lock_nor_the_process(fake_nvml, locker):
    """Under `nohup`, or behind a script's `&`, a hang-up and a Ctrl-C leave a run and its clock as they are."""
    child = locker("wait", first="trap '' HUP INT")
    child.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGINT)
    assert fake_nvml.locked_mhz() == 1410
    out, _ = child.communicate("to end\n")
    assert (out, child.returncode) == ("told to end\n", 0)
    assert fake_nvml.locked_mhz() is None


@pytest.mark.parametrize("way", ["exit", "raise"])
def test_an_exit_without_leaving_the_context_gives_the_clock_back(fake_nvml, locker, way):
    """`sys.exit` and an uncaught exception end through atexit."""
    assert locker(way).wait() != 0
    assert fake_nvml.locked_mhz() is None


@pytest.mark.parametrize("way", ["os-exit", "wait", "stuck"])
def test_a_death_no_handler_sees_is_covered_by_the_watchdog(fake_nvml, locker, wait_until, way):
    """SIGKILL, `os._exit` and a process stuck in native code: another process resets the clock."""
    child = locker(way)
    if way == "stuck":
        child.send_signal(signal.SIGTERM)
    if way != "os-exit":
        child.kill()
    child.wait()
    wait_until(lambda: fake_nvml.locked_mhz() is None)


_RANK = """
import os, time
from profiler.instruments.clocks import NvmlClocks
from profiler.instruments.nvml import Nvml
rank = int(os.environ["RANK"])
with NvmlClocks(Nvml().gpus()[rank]) as clocks:
    assert clocks.lock(1410).clock_mhz == 1410
    open(f"{os.environ['FAKE_NVML_STATE']}.ready{rank}", "w").close()
    while not os.path.exists(f"{os.environ['FAKE_NVML_STATE']}.ready{1 - rank}"):
        time.sleep(0.02)
    if rank == 1:
        os._exit(9)
    while True:
        time.sleep(1)
"""


def test_a_crash_of_a_sibling_rank_frees_every_gpu(fake_nvml, tmp_path, wait_until):
    """Torchrun ends the other ranks: the crashed rank's GPU and its siblings' are all given back."""
    pytest.importorskip("torch")
    fake_nvml.set(gpus=2)
    program = tmp_path / "rank.py"
    program.write_text(_RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    ended = subprocess.run(command, env=fake_nvml.environment, capture_output=True, check=False)
    assert ended.returncode != 0
    assert [change for change in fake_nvml.changes() if change[0] == "lock"] != []
    wait_until(lambda: fake_nvml.locked_mhz(0) is None and fake_nvml.locked_mhz(1) is None)


def test_a_forked_child_does_not_give_back_its_parents_clock(fake_nvml, locker, wait_until):
    """Only the process that locked may restore: a worker that exits must not unlock the run."""
    child = locker("fork")
    assert child.stdout.readline() == "worker gone\n"
    assert fake_nvml.locked_mhz() == 1410
    child.kill()
    wait_until(lambda: fake_nvml.locked_mhz() is None)
