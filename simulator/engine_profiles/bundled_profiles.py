"""The names of the bundled engine profiles, and the one that is taken where nobody names one."""

from difflib import get_close_matches
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown

DEFAULT_PROFILE: Final = "vllm-0.33"

_FOLDER: Final = Path(__file__).parent


def bundled_profiles() -> list[str]:
    """Return the names of the bundled engine profiles, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def bundled_path(name: str) -> Path:
    """Return the file of the bundled profile ``name``."""
    return _FOLDER / f"{name}.toml"


def is_path(text: str) -> bool:
    """Whether ``text`` names a profile by the path of its file; otherwise it is the name of a bundled one."""
    return text.endswith(".toml") or "/" in text


def unknown_profile(text: str, *, place: str = "") -> UserError:
    """Return the error for a name or path that leads to no profile; ``place`` is where it was stated."""
    known = bundled_profiles()
    close = get_close_matches(text[:200], known, n=2)
    said = f"{place} is {shown(text)}, which" if place else shown(text)
    return UserError(
        f"{said} is no engine profile",
        hint=f"did you mean {' or '.join(close)}?" if close else f"bundled: {', '.join(known)}; or a .toml path",
    )
