"""Guides as what they say to do: files to write, edits, commands, and the checks that name what is left out.

A guide is Markdown with three kinds of blocks that are followed in their order:

- "`path`:" and a fenced block: a file to write;
- a block of ``diff``: its first line names the file (``--- path``), a blank line parts hunks, and the lines of a hunk
  that are kept or taken out stand in that file exactly once, one after the other; ``[...]`` is the rest of a line;
- a block of ``console``: each line behind ``$`` is run by bash and must succeed.

A table headed "left out" names a file of the guide, the check that fails without its change, and a text it prints.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
STEP = re.compile(
    r"^`(?P<file>[\w./-]+)`:\n\n```\w*\n(?P<content>.*?)^```$"
    r"|^```diff\n--- (?P<edited>[\w./-]+)\n(?P<hunks>.*?)^```$"
    r"|^```console\n(?P<commands>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LEFT_OUT = re.compile(
    r"^\| `(?P<file>[\w./-]+)` \| `(?P<check>tests/[\w./:-]+)` \| `(?P<said>[^`]+)` \|$", re.MULTILINE
)
_CUT = "[...]"
# Large, never written by a guide, or beside the compiled engine's cache, which a copy would compile anew.
_LINKED = ("profiles_db/fitted", "simulator/engine")
_FOLDERS = ("benchmarks", "cluster_specs", "costmodel", "docs", "profiler", "profiles_db", "simulator", "tests")
_FILES = ("pyproject.toml", "Makefile", "README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md")


def copy_repository(target: Path) -> Path:
    """Copy the sources to ``target``; what is large is linked."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(ROOT)
        return {name for name in names if str(inside / name) in _LINKED}

    for folder in _FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=left_out)
    for file in _FILES:
        if (ROOT / file).exists():
            shutil.copy2(ROOT / file, target / file)
    for linked in _LINKED:
        (target / linked).symlink_to(ROOT / linked)
    return target


def _environment(copy: Path) -> dict[str, str]:
    """Commands of a guide import the copy and not the package that is installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PYTHONPATH": str(copy), "PATH": programs, "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:xdist"}


def run(command: str, copy: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], cwd=copy, env=_environment(copy), capture_output=True, text=True, check=False
    )


def changes(page: str) -> Iterator[re.Match[str]]:
    return (step for step in STEP.finditer(page) if step["commands"] is None)


def make(step: re.Match[str], copy: Path) -> None:
    """Write the file of ``step``, or edit it."""
    if step["file"]:
        (copy / step["file"]).parent.mkdir(parents=True, exist_ok=True)
        (copy / step["file"]).write_text(step["content"], encoding="utf-8")
        return
    edited = copy / step["edited"]
    text = edited.read_text(encoding="utf-8")
    for hunk in re.split(r"^\n", step["hunks"], flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        assert {line[0] for line in lines} <= {" ", "+", "-"}, hunk
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        pattern = re.escape(before).replace(re.escape(_CUT), "(.*)")
        found = list(re.finditer(pattern, text))
        assert len(found) == 1, f"{step['edited']} must hold these lines once:\n{before}"
        for kept in found[0].groups():
            after = after.replace(_CUT, kept, 1)
        text = text[: found[0].start()] + after + text[found[0].end() :]
    edited.write_text(text, encoding="utf-8")
