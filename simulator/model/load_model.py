"""The configs that come with the package, and loading a model by name, by Hugging Face id or by path."""

from dataclasses import replace
from pathlib import Path

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from simulator.model import families  # noqa: F401 - registers the readers that come with the package
from simulator.model.architectures import from_hf_config
from simulator.model.checkpoints import (
    CONFIGS,
    Checkpoint,
    bundled_checkpoints,
    cache_folder,
    find_checkpoint,
    is_checkpoint_id,
)
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec

__all__ = ["bundled_models", "from_hf_config", "load_model"]


def bundled_models() -> tuple[str, ...]:
    """Names of the bundled configs, sorted."""
    return tuple(sorted(file.stem for file in CONFIGS.glob("*.json")))


def load_model(name_or_path: str | Path) -> ModelSpec:
    """Return the model of a bundled name or Hugging Face id (whatever their case), of a config.json or of its folder.

    Raises ``UserError`` naming the closest bundled names when it is none of them.
    """
    text = str(name_or_path)
    if text.lower() in bundled_models():
        return from_hf_config(_bundled_config(text.lower()), name=text.lower())
    if _exists(text):
        return from_hf_config(Path(text))
    checkpoint = find_checkpoint(text)
    if checkpoint is None:
        raise _not_found(text)
    return _load_checkpoint(checkpoint)


def _load_checkpoint(checkpoint: Checkpoint) -> ModelSpec:
    if checkpoint.file is not None:
        config, origin = HfConfig.from_file(checkpoint.file), str(checkpoint.file)
    else:
        config, origin = _bundled_config(checkpoint.bundled), f"the bundled {checkpoint.bundled}"
        if checkpoint.changes:
            config = config.with_values(checkpoint.changes)
            origin += f" with its own {', '.join(checkpoint.changes)}"
    model = from_hf_config(config, name=checkpoint.name)
    return replace(model, checkpoint=checkpoint.name, notes=(f"{checkpoint.name} is read from {origin}", *model.notes))


def _bundled_config(name: str) -> HfConfig:
    return HfConfig.from_file(CONFIGS / f"{name}.json")


def _exists(text: str) -> bool:
    """Whether a path is there; a link that leads nowhere and text that is no path at all are not."""
    path = Path(text)
    try:
        is_there = bool(text.strip()) and path.exists()
        leads_nowhere = not is_there and path.is_symlink()
    except (OSError, ValueError):  # a name longer than the file system takes, or a NUL
        return False
    if leads_nowhere:
        raise UserError(f"{text}: is a link that leads nowhere", hint="link it to a config.json or its folder")
    return is_there


def _not_found(text: str) -> UserError:
    import difflib

    known = [found.name for found in bundled_checkpoints().values()] if "/" in text else bundled_models()
    names = {name.rpartition("/")[2].lower(): name for name in known}
    close = difflib.get_close_matches(text[:100].rpartition("/")[2].lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(names[one] for one in close)}?" if close else "`apex models` shows bundled names"
    if is_checkpoint_id(text) and "/" in text:
        return UserError(
            f"model {text!r} is neither an existing path nor in the Hugging Face cache {cache_folder()}",
            hint=f"`hf download {text} config.json` puts it there; {hint}",
        )
    return UserError(
        f"model {shown(text)} is neither a bundled name, a known Hugging Face id nor an existing path", hint=hint
    )
