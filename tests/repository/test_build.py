"""What installing builds: a wheel with the compiled engine in it, which an environment without a compiler runs."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from simulator.engine.native import objects
from simulator.engine.native.abi import ENTRIES
from simulator.engine.native.linker import LinkError, linker_command

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster_specs", "profiles_db", "costmodel", "profiler", "simulator")


def build(checkout: Path, environment: dict[str, str]) -> tuple[Path, str]:
    """Build a wheel of a checkout's sources: the wheel, and what was said."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "fitted", "built"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (checkout / "dist").glob("*.whl")
    return wheel, done.stdout + done.stderr


def test_a_wheel_carries_the_engine_and_runs_without_a_compiler(tmp_path: Path) -> None:
    """The wheel is of this platform and any Python; unpacked where there is no numba, its engine loads."""
    pytest.importorskip("hatchling", reason="the build backend is not installed (extra dev)")
    try:
        linker_command()
    except LinkError as error:
        pytest.skip(str(error))
    wheel, _ = build(tmp_path / "checkout", {"PATH": sysconfig.get_path("scripts") + ":/usr/bin:/bin"})
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    packages = tmp_path / "packages"
    with zipfile.ZipFile(wheel) as content:
        content.extractall(packages)
    assert objects.find(packages / "simulator/engine/native/built", objects.source_key(), objects.LIBRARY)
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name.startswith("numpy"):
            (packages / path.name).symlink_to(path)
    script = (
        f"import sys; sys.path.insert(0, {str(packages)!r})\n"
        "from simulator.engine.native.load import ENGINE_CODE\nprint(len(ENGINE_CODE.functions()))\n"
        "print({'numba', 'llvmlite'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == [str(len(ENTRIES)), "set()"], done.stderr


def test_a_wheel_without_a_linker_is_plain_python(tmp_path: Path) -> None:
    """Where nothing links, the wheel says so, is for any platform and holds no engine."""
    pytest.importorskip("hatchling", reason="the build backend is not installed (extra dev)")
    wheel, said = build(tmp_path / "checkout", {"PATH": str(tmp_path)})
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "is not compiled now but at first use" in said
    with zipfile.ZipFile(wheel) as content:
        assert not [name for name in content.namelist() if "native/built" in name]
