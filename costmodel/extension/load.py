"""Loading a person's Python module: a file, or a module that Python can import, and the ops it declares.

A module is loaded where a person names it on the command line and nowhere else. A file's folder joins the end of
Python's search path, so that it finds what lies beside it.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from costmodel.extension.custom_op import GUIDE, CustomOp

_MODULE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_HINT: Final = f"pass one .py file, or a module that Python can import: {GUIDE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A loaded module, ``text`` as it was named, and the ops that are values of it, by name."""

    text: str
    module: ModuleType
    ops: dict[str, CustomOp]


def load_module(named: str | Path) -> Extension:
    """Import ``named``; raises ``UserError`` when that fails, or when two of its ops have one name."""
    text = str(named)
    try:
        module = _imported(text)
    except UserError as error:
        raise UserError(f"{text}: {error}", hint=error.hint or _HINT) from error
    except Exception as error:  # whatever a person's code raises is that person's mistake, not ours
        raise UserError(
            f"{text}: {type(error).__name__}: {error}", hint="run the file with python to see where it fails"
        ) from error
    ops: dict[str, CustomOp] = {}
    for value in vars(module).values():
        if isinstance(value, CustomOp) and ops.setdefault(value.name, value) is not value:
            raise UserError(f"{text}: declares two ops named {value.name}", hint="give each a name of its own")
    return Extension(text=text, module=module, ops=ops)


def load_ops(named: Sequence[str | Path]) -> tuple[Extension, ...]:
    """Load modules for the ops they declare; raises ``UserError`` for one that declares none, and for names in two."""
    refuse_twice(named)
    loaded: list[Extension] = []
    for one in named:
        found = load_module(one)
        if not found.ops:
            raise UserError(f"{found.text}: declares no op to measure", hint=f"a CustomOp at its top level: {GUIDE}")
        for other in loaded:
            if both := sorted(set(other.ops) & set(found.ops)):
                raise UserError(f"{found.text}: op {both[0]} is declared by {other.text} already")
        loaded.append(found)
    return tuple(loaded)


def source_of(named: str | Path) -> Path:
    """Return the file that a module which was loaded as ``named`` was read from."""
    if Path(named).is_file():
        return Path(named)
    found = sys.modules[str(named)].__file__
    if found is None:
        raise UserError(f"{named}: is a folder of modules without code of its own", hint=_HINT)
    return Path(found)


def refuse_twice(named: Sequence[str | Path]) -> None:
    """Refuse an extension that is given twice; raises ``UserError``."""
    seen: set[str] = set()
    for one in named:
        place = str(Path(one).resolve()) if Path(one).is_file() else str(one)
        if place in seen:
            raise UserError(f"--extension {one}: is given twice", hint="give each once")
        seen.add(place)


def _imported(text: str) -> ModuleType:
    path = Path(text)
    if path.is_file() and path.suffix == ".py":
        return _imported_file(path.resolve())
    if path.exists() or _MODULE.fullmatch(text) is None or text.endswith(".py"):
        raise UserError("is not a Python file", hint=_HINT)
    if "" not in sys.path:
        sys.path.append("")  # the working directory, as python -m has it
    return importlib.import_module(text)


def _imported_file(path: Path) -> ModuleType:
    """Execute a file anew, under a name that tells it from files of the same name elsewhere."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = f"apex_extension_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{shown(path.name)} cannot be imported", hint=_HINT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
