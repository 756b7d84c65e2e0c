"""Every output is written whole or not at all, whoever else writes there and whatever the disk says."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from cluster_specs.errors import OutputError
from cluster_specs.files.whole import check_folder, make_folder, write_text, write_whole

# Writes `size` bytes of one letter in small parts, many times over.
WRITER = """
import sys
from pathlib import Path
from cluster_specs.files.whole import write_whole
path, letter, size = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
def fill(stream):
    for _ in range(size // 1000):
        stream.write(letter * 1000)
for _ in range(30):
    write_whole(path, fill)
"""


def test_two_writers_of_one_file_leave_one_whole_result(tmp_path: Path) -> None:
    """Processes that write one file at once leave what one of them wrote, and nothing beside it."""
    path = tmp_path / "result.json"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter, str(size)])
        for letter, size in (("a", 300_000), ("b", 200_000), ("c", 100_000))
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    content = path.read_bytes()
    assert content in (b"a" * 300_000, b"b" * 200_000, b"c" * 100_000)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_under_the_final_name_is_replaced_not_followed(tmp_path: Path) -> None:
    """What a link points at is never written to."""
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (tmp_path / "out.json").symlink_to(victim)
    write_text(tmp_path / "out.json", "new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "out.json").read_text() == "new"
    assert not (tmp_path / "out.json").is_symlink()


def test_no_name_of_a_temporary_file_can_be_guessed(tmp_path: Path) -> None:
    """Two writes of one file use names of their own, made exclusively, so that no link can wait under them."""
    seen: list[set[str]] = []

    def fill(stream: BinaryIO) -> None:
        seen.append({path.name for path in tmp_path.iterdir()} - {"out"})
        assert os.path.samefile(stream.fileno(), tmp_path / next(iter(seen[-1])))  # noqa: PTH121 - of a descriptor
        stream.write(b"x")

    write_whole(tmp_path / "out", fill)
    write_whole(tmp_path / "out", fill)
    assert seen[0].isdisjoint(seen[1])


@pytest.mark.parametrize("trouble", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, trouble: BaseException) -> None:
    """A full disk or Ctrl-C half-way keeps what was there before."""
    path = tmp_path / "out.txt"
    write_text(path, "old")

    def fill(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise trouble

    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_whole(path, fill)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_output_error_with_its_reason(tmp_path: Path) -> None:
    """The message names the file and what the system said; the exit code is that of outputs."""
    code = (
        "import resource, sys, pathlib\n"
        "from cluster_specs.errors import OutputError\n"
        "from cluster_specs.files.whole import write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_text(pathlib.Path(sys.argv[1]), 'x' * 5000)\n"
        "except OutputError as error:\n"
        "    print(error, error.exit_code)\n"
    )
    path = tmp_path / "out.txt"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{path}: cannot be written: {os.strerror(errno.EFBIG)} 1"
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_or_device_is_written_as_it_comes(tmp_path: Path) -> None:
    """What is no file stays what it is: a named pipe gets the bytes, /dev/full its own answer."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        write_text(pipe, "hello\n")
        out, _ = reader.communicate()
    assert out == "hello\n"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(OutputError, match="/dev/full: cannot be written: No space left"):
        write_text(Path("/dev/full"), "x")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "日" * 85])
def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path: Path, name: str) -> None:
    """The temporary file's longer name never is the obstacle."""
    write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "missing/file", "."])
def test_a_name_that_cannot_be_written_is_one_message(tmp_path: Path, name: str) -> None:
    """Too long a name, a NUL, a missing folder and a folder itself each end in the same error."""
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / name, "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing/file", "x" * 300 + "/file", "a\0b/file", "file/below"])
def test_a_folder_that_is_none_is_told_before_the_work(tmp_path: Path, name: str) -> None:
    """``check_folder`` says what ``write_whole`` would."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is no folder you can write to"):
        check_folder(tmp_path / name)
    check_folder(tmp_path / "file")


def test_a_folder_under_a_file_is_one_message(tmp_path: Path) -> None:
    """Making a folder where a file is names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="below: cannot be written: Not a directory"):
        make_folder(tmp_path / "file" / "below")


def test_text_without_a_utf8_form_is_still_written(tmp_path: Path) -> None:
    """Half of a surrogate pair, which a JSON file may hold, is written as its escape."""
    write_text(tmp_path / "out", "a\ud800b")
    assert (tmp_path / "out").read_bytes() == b"a\\ud800b"
