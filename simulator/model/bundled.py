"""The configs that come with the package, and loading a model by name or by path."""

from importlib import resources
from pathlib import Path

from cluster_specs.errors import UserError
from simulator.model.architectures import from_hf_config
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec


def bundled_models() -> tuple[str, ...]:
    """Names of the bundled configs, sorted."""
    folder = resources.files("simulator.model") / "configs"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def load_model(name_or_path: str | Path) -> ModelSpec:
    """Return a bundled name, or the path of a config.json or of the folder that holds one.

    Raises ``UserError`` naming the closest bundled names when it is neither.
    """
    text = str(name_or_path)
    if text in bundled_models():
        with resources.as_file(resources.files("simulator.model") / "configs" / f"{text}.json") as file:
            return from_hf_config(HfConfig.from_file(file), name=text)
    path = Path(text)
    if path.exists():
        return from_hf_config(path)
    raise UserError(f"model {text!r} is neither a bundled name nor an existing path", hint=_hint(text))


def _hint(text: str) -> str:
    import difflib

    close = difflib.get_close_matches(text.lower(), bundled_models(), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else "`apex models` shows the bundled names"
