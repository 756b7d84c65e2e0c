"""A lock keeps others out for as long as its holder lives, and not a moment longer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_specs.errors import OutputError, UserError
from cluster_specs.files.lock import locked

HOLDER = """
import sys
from pathlib import Path
from cluster_specs.files.lock import locked
with locked(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""

# Adds one to a number in a file, a hundred times; without the lock most additions are lost.
COUNTER = """
import sys
from pathlib import Path
from cluster_specs.files.lock import locked
folder = Path(sys.argv[1])
for _ in range(100):
    with locked(folder / ".lock", wait=True):
        count = int((folder / "count").read_text())
        (folder / "count").write_text(str(count + 1))
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_who_waits_comes_in_one_at_a_time(tmp_path: Path) -> None:
    """Processes that read, change and write under the lock lose nothing."""
    (tmp_path / "count").write_text("0")
    counters = [subprocess.Popen([sys.executable, "-c", COUNTER, str(tmp_path)]) for _ in range(3)]
    assert [counter.wait() for counter in counters] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "300"


def test_who_does_not_wait_is_told_who_holds_it(tmp_path: Path) -> None:
    """The refusal names the folder and the process; once that process is killed, the lock is free."""
    holder = _holder(tmp_path / "lock")
    with (
        pytest.raises(UserError, match=rf"another run is writing here \(pid {holder.pid}\)"),
        locked(tmp_path / "lock", wait=False),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with locked(tmp_path / "lock", wait=False):
        assert (tmp_path / "lock").read_text() == f"pid {os.getpid()}\n"


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """A link under the lock's name is not followed: what it points at stays as it was."""
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "lock", wait=True):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_lock_under_a_file_is_one_message(tmp_path: Path) -> None:
    """A folder that cannot be made is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be written"), locked(tmp_path / "file" / "lock", wait=True):
        pass


def test_a_full_disk_does_not_keep_the_lock_from_being_taken(tmp_path: Path) -> None:
    """The holder's name cannot be written there, the lock holds all the same."""
    code = (
        "import resource, sys, pathlib\n"
        "from cluster_specs.files.lock import locked\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "with locked(pathlib.Path(sys.argv[1]), wait=False):\n"
        "    print('held')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("held\n", "")
