"""Files of the compiled engine: what is loaded, what is passed over and made anew, and where they are kept."""

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulator.engine.native import objects
from simulator.engine.native.abi import ENTRIES
from simulator.engine.native.linker import LinkError, link, linker_command
from simulator.engine.native.load import EngineCode, compiled_object

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def content() -> bytes:
    """Compile the engine once for all tests here."""
    return compiled_object()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a user's folder of this test's own, not yet made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "apex" / "engine"


Starts = Callable[[], int]


@pytest.fixture
def start_engine(content: bytes, tmp_path: Path, cache: Path) -> Iterator[Starts]:
    """Start the engine as a new process would, nothing built at installation; tells how often it was compiled."""

    def starts() -> int:
        told: list[str] = []
        code = EngineCode(tmp_path / "built", lambda: content)
        code.on_compilation(lambda: told.append("compiling"))
        functions = code.functions()
        assert set(functions) == set(ENTRIES)
        assert code.functions() is functions
        return len(told)

    return starts


def kept(folder: Path) -> list[Path]:
    """Objects in a folder."""
    return sorted(folder.glob("engine-*"))


def needs_linker() -> None:
    """Skip a test of linked libraries where nothing links."""
    try:
        linker_command()
    except LinkError as error:
        pytest.skip(str(error))


def test_the_engine_is_compiled_once_and_then_loaded(start_engine: Starts, cache: Path) -> None:
    """The first start compiles and keeps one file in a folder that nobody else can write to; later ones load it."""
    assert start_engine() == 1
    (path,) = kept(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert start_engine() == 0
    assert kept(cache) == [path]


@pytest.mark.parametrize("damage", ["truncated", "emptied", "changed", "renamed", "replaced"])
def test_a_file_that_is_not_what_its_name_says_is_never_loaded(damage: str, start_engine: Starts, cache: Path) -> None:
    """Half a library, another one's content, or a stranger under the name of an engine: compiled anew."""
    start_engine()
    (path,) = kept(cache)
    whole = path.read_bytes()
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "emptied": b"",
        "changed": whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
        "renamed": whole,
        "replaced": b"not an object\n" * 5000,
    }
    path.unlink()  # a file of its own: this process runs the code of the first
    path.write_bytes(damaged[damage])
    if damage == "renamed":
        path.rename(path.with_name(path.name.replace(objects.target(), "linux-another")))
    assert start_engine() == 1
    assert start_engine() == 0


def test_a_library_that_does_not_load_is_made_anew(start_engine: Starts, cache: Path) -> None:
    """One of another processor, whole and under the right name, is refused by the system's loader and replaced."""
    needs_linker()
    start_engine()
    (path,) = kept(cache)
    machine = 18  # place of the machine in an ELF header
    foreign = bytearray(path.read_bytes())
    foreign[machine : machine + 2] = b"\xf3\x00"  # RISC-V
    key = path.name.split("-")[3]
    path.unlink()
    objects.keep(cache, key, bytes(foreign), objects.LIBRARY)
    assert start_engine() == 1


def test_another_compiler_or_other_sources_make_another_engine() -> None:
    """The key differs by the sources, by the versions of the compiler and by the platform."""
    sources = objects.source_key()
    assert objects.compiler_key(sources, "numba 1") != objects.compiler_key(sources, "numba 2")
    assert objects.compiler_key(sources, "numba 1") != objects.compiler_key("others", "numba 1")
    assert sources == objects.source_key()


def test_an_edit_of_a_kernel_changes_the_key(tmp_path: Path) -> None:
    """One more character in a source of the engine, and what was compiled before is no longer found."""
    script = "from simulator.engine.native.objects import source_key; print(source_key())"
    for name in ("cluster_specs", "simulator"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "configs", "built"))

    def key() -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", script]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path
        ).stdout.strip()

    before = key()
    assert before == objects.source_key()
    with (tmp_path / "simulator" / "engine" / "leap.py").open("a") as file:
        file.write("\n")
    assert key() != before


def test_what_was_built_at_installation_comes_first(content: bytes, tmp_path: Path, cache: Path) -> None:
    """A library beside the package is loaded without a compiler and without a user's folder."""
    needs_linker()
    built = tmp_path / "built"
    built.mkdir()
    objects.keep(built, objects.source_key(), link(content), objects.LIBRARY)

    def refuse() -> bytes:
        raise AssertionError("compiled, though there is a library")

    assert set(EngineCode(built, refuse).functions()) == set(ENTRIES)
    assert not cache.exists()


def test_without_a_linker_the_object_is_kept(
    start_engine: Starts, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no linker is found, llvmlite loads the object, kept all the same."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LinkError, match="none of cc, gcc, clang"):
        link(b"")
    assert start_engine() == 1
    assert [path.suffix for path in kept(cache)] == [objects.OBJECT]
    assert start_engine() == 0


def test_a_linker_that_refuses_is_told_from_none(tmp_path: Path) -> None:
    """What is no object does not link, and the message is the linker's."""
    needs_linker()
    with pytest.raises(LinkError, match="does not link"):
        link(b"no object")


@pytest.mark.parametrize("fault", ["a file", "writable by others", "below a file"])
def test_a_folder_that_cannot_keep_code_is_told(
    fault: str, start_engine: Starts, cache: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """The engine runs from memory, and the warning names the folder and the variable; nothing is loaded from there."""
    cache.parent.mkdir(parents=True)
    if fault == "a file":
        cache.write_text("")
    elif fault == "writable by others":
        cache.mkdir()
        cache.chmod(0o777)
    else:
        cache.parent.rmdir()
        cache.parent.write_text("")
    with pytest.warns(RuntimeWarning, match=f"cannot be kept.*{cache.parent}.*XDG_CACHE_HOME"):
        assert start_engine() == 1
    assert cache.is_file() or not cache.exists() or kept(cache) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_code_of_another_user_is_not_loaded(start_engine: Starts, cache: Path) -> None:
    """A folder that belongs to somebody else may hold anything."""
    cache.mkdir(parents=True, mode=0o755)
    os.chown(cache, 12345, 12345)
    with pytest.warns(RuntimeWarning, match="others can write to it"):
        assert start_engine() == 1
    assert kept(cache) == []


def test_old_engines_are_cleared_away(tmp_path: Path) -> None:
    """Of what a user's folder has gathered the newest stay."""
    for age in range(12):
        path = tmp_path / f"engine-{objects.target()}-{age:x}-{age:x}.so"
        path.write_bytes(b"x")
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    objects.drop_old(tmp_path)
    assert sorted(int(path.name.split("-")[3], 16) for path in kept(tmp_path)) == list(range(8))


def test_two_processes_at_first_use_compile_once(tmp_path: Path, cache: Path) -> None:
    """The second waits for what the first makes; both run the same file."""
    script = (
        "import sys, pathlib\nfrom simulator.engine.native.load import EngineCode, compiled_object\n"
        f"code = EngineCode(pathlib.Path({str(tmp_path / 'built')!r}), compiled_object)\n"
        "code.on_compilation(lambda: print('compiling', flush=True))\nprint(len(code.functions()))"
    )
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    said = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(said) == sorted([["compiling", str(len(ENTRIES))], [str(len(ENTRIES))]])
    assert len(kept(cache)) == 1


def test_without_a_compiler_the_error_names_the_extra(tmp_path: Path) -> None:
    """An environment that has no numba and nothing built for it: one sentence and what to install."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.startswith(("numba", "llvmlite", "__editable__", "_editable")) and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(packages)!r}]\n"
        "import pathlib\nfrom simulator.engine.native import load, objects\n"
        f"code = load.EngineCode(pathlib.Path({str(tmp_path / 'built')!r}), load.compiled_object)\n"
        "try:\n    code.functions()\nexcept load.EngineObjectError as error:\n    print(error, '|', error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no compiled engine can be loaded" in done.stdout
    assert "pip install 'apex-planner[jit]'" in done.stdout


def test_a_compiler_that_is_switched_off_is_told() -> None:
    """With NUMBA_DISABLE_JIT the engine cannot be compiled: one sentence, which names the way to run it as Python."""
    script = (
        "from simulator.engine.native import load\n"
        "try:\n    load.compiled_object()\nexcept load.EngineObjectError as error:\n    print(error, '|', error.hint)\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert "NUMBA_DISABLE_JIT is set" in done.stdout, done.stderr
    assert "interpreted runs an engine as Python" in done.stdout
