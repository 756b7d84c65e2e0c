"""Hugging Face ids: which bundled config describes a checkpoint, and where the local cache keeps its config.

The cache is laid out as `huggingface_hub` does: ``models--ORG--NAME/refs/main`` holds the commit that
``snapshots/COMMIT/config.json`` belongs to. Nothing is downloaded.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.reading import read_document
from cluster_specs.lazy_dataclass import dataclass

CONFIGS: Final = Path(__file__).parent / "configs"  # those that come with the package
_ID: Final = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_MOST_CHARACTERS: Final = 96  # what the hub allows
_COMMIT: Final = re.compile(r"[\w.-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A Hugging Face id as its owner spells it, and what describes it: a config file, or a bundled one with changes."""

    name: str
    file: Path | None = None
    bundled: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


def is_checkpoint_id(text: str) -> bool:
    """Whether ``text`` could be an id: a name, or an organisation's name and a name."""
    return len(text) <= _MOST_CHARACTERS and _ID.fullmatch(text) is not None


def find_checkpoint(text: str) -> Checkpoint | None:
    """Look an id up, whatever its case: first in the local cache, then among what bundled configs describe.

    Raises ``UserError`` when the cache holds the checkpoint without its config and no bundled config describes it.
    """
    if not is_checkpoint_id(text):
        return None
    folder = _cached_folder(text)
    name = "" if folder is None else folder.name.removeprefix("models--").replace("--", "/", 1)
    file = None if folder is None else _cached_config(folder)
    if file is not None:
        return Checkpoint(name=name, file=file)
    described = bundled_checkpoints().get(text.lower())
    if described is None and folder is not None:
        raise UserError(
            f"{folder}: holds no config.json of a snapshot that refs/main names",
            hint=f"`hf download {name} config.json`",
        )
    return described


def bundled_checkpoints() -> dict[str, Checkpoint]:
    """Every id that a bundled config describes, by its lower-case spelling."""
    text = (CONFIGS / "checkpoints.toml").read_text(encoding="utf-8")
    found: dict[str, Checkpoint] = {}
    for bundled, table in tomllib.loads(text).items():
        for name in table.get("ids", ()):
            found[name.lower()] = Checkpoint(name=name, bundled=bundled)
        for name, changes in table.get("variants", {}).items():
            found[name.lower()] = Checkpoint(name=name, bundled=bundled, changes=changes)
    return found


def cache_folder() -> Path:
    """Return the folder `huggingface_hub` keeps downloads in: HF_HUB_CACHE, else HF_HOME/hub, else the user's cache."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if stated := os.environ.get(variable):
            return Path(stated).expanduser()
    if stated := os.environ.get("HF_HOME"):
        return Path(stated).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def _cached_folder(text: str) -> Path | None:
    """Return the folder of a checkpoint, of the exact spelling where two differ in case only."""
    wanted = f"models--{text.replace('/', '--')}"
    try:
        names = [entry.name for entry in cache_folder().iterdir() if entry.name.lower() == wanted.lower()]
    except OSError:
        return None
    return cache_folder() / (wanted if wanted in names else min(names)) if names else None


def _cached_config(folder: Path) -> Path | None:
    """Return the config of the snapshot that ``refs/main`` names, or of the only one."""
    reference, snapshots = folder / "refs" / "main", folder / "snapshots"
    try:
        commits = [entry.name for entry in snapshots.iterdir()]
        if reference.is_file():
            commit = read_document(reference, most_bytes=1024).decode(errors="replace").strip()
            commits = [commit] if _COMMIT.fullmatch(commit) and commit not in {".", ".."} else []
    except OSError:
        return None
    if len(commits) != 1:
        return None
    file = snapshots / commits[0] / "config.json"
    return file if file.is_file() else None
