"""The names of the bundled engine profiles, and the one that is taken where nobody names one."""

import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown

DEFAULT_PROFILE: Final = "vllm-0.33"

_FOLDER: Final = Path(__file__).parent
_NAME: Final = re.compile(
    r"(?P<engine>[a-z-]{1,40})-v?(?P<numbers>\d{1,6}\.\d{1,6}(\.\d{1,6}){0,2})(\.?(rc|post|dev)\d{1,6}){0,3}"
)


@cache
def bundled_profiles() -> tuple[str, ...]:
    """Return the names of the bundled engine profiles, sorted; the folder is read once, as every plan asks."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def bundled_path(name: str) -> Path:
    """Return the file of the bundled profile ``name``."""
    return _FOLDER / f"{name}.toml"


def is_path(text: str) -> bool:
    """Whether ``text`` names a profile by the path of its file; otherwise it is the name of a bundled one."""
    return text.endswith(".toml") or "/" in text


def profile_for(name: str) -> str:
    """Return the bundled profile that stands in for a version without one: the nearest older version of its engine.

    A name that is bundled, or names no newer version of a known engine than its oldest profile, comes back as it is.
    """
    asked = _version(name)
    if asked is None or name in bundled_profiles():
        return name
    known = {other: found for other in bundled_profiles() if (found := _version(other)) is not None}
    older = [other for other, (engine, numbers) in known.items() if engine == asked[0] and numbers <= asked[1]]
    return max(older, key=lambda other: known[other][1], default=name)


def is_patch(name: str, release: tuple[int, int] | None) -> bool:
    """Whether a version differs from ``release`` in what comes behind major and minor number at most."""
    asked = _version(name)
    return asked is not None and asked[1][:2] == release


def release_in(name: str) -> tuple[int, int] | None:
    """Return major and minor version in a name such as vllm-0.33; None where it is no such name."""
    found = _version(name)
    return None if found is None else (found[1][0], found[1][1])


@cache
def newest_bundled(engine: str) -> str | None:
    """Return the name of the newest bundled profile of an engine; None where there is none."""
    known = {found[1]: name for name in bundled_profiles() if (found := _version(name)) and found[0] == engine}
    return known[max(known)] if known else None


def _version(name: str) -> tuple[str, tuple[int, ...]] | None:
    """Split a name such as vllm-0.18.1 into engine and numbers; None where it is no such name."""
    found = _NAME.fullmatch(name)
    return (found["engine"], tuple(map(int, found["numbers"].split(".")))) if found else None


def unknown_profile(text: str, *, place: str = "") -> UserError:
    """Return the error for a name or path that leads to no profile; ``place`` is where it was stated."""
    known = bundled_profiles()
    close = get_close_matches(text[:200], known, n=2)
    said = f"{place} is {shown(text)}, which" if place else shown(text)
    return UserError(
        f"{said} is no engine profile",
        hint=f"did you mean {' or '.join(close)}?" if close else f"bundled: {', '.join(known)}; or a .toml path",
    )
