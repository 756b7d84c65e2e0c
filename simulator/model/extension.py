"""Loading a person's Python file that registers a cell or an architecture."""

import importlib.util
from pathlib import Path

from cluster_specs.errors import UserError


def load_extension(file: str | Path) -> None:
    """Import ``file`` for its registrations; raises ``UserError`` when it cannot be imported."""
    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"apex_extension_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{path}: is not a Python file", hint="pass one .py file: docs/guides/add_a_model.md")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a person's code raises is that person's mistake, not ours
        raise UserError(
            f"{path}: {type(error).__name__}: {error}", hint="run the file with python to see where it fails"
        ) from error
