"""An engine profile with some values changed, by dotted key: what launch files state and what estimation tries."""

from collections.abc import Mapping
from typing import Any, TypeVar

from cluster_specs.files.declared import Declared
from simulator.engine_profiles.constant import Constant, error_of
from simulator.engine_profiles.engine_profile import EngineProfile

Section = TypeVar("Section", bound=Declared)


def changed(profile: EngineProfile, changes: Mapping[str, Any]) -> EngineProfile:
    """Return ``profile`` with each dotted key of ``changes`` at its value; a key it does not have is an error."""
    for key, value in changes.items():
        profile = _replaced(profile, key.split("."), value)
    return profile


def shifted(profile: EngineProfile, shifts: Mapping[str, float]) -> EngineProfile:
    """Return ``profile`` with each dotted key moved by so much, but not below 0; its error stays, up to the value."""
    moved = {}
    for key, shift in shifts.items():
        old = value_of(profile, key)
        new = max(0.0, old + shift)
        moved[key] = Constant(new, min(new, error_of(old)))
    return changed(profile, moved)


def value_of(profile: EngineProfile, key: str) -> Any:
    """Return the value at a dotted key."""
    value: Any = profile
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _replaced(section: Section, keys: list[str], value: Any) -> Section:
    name = keys[0]
    if name not in type(section).model_fields:
        raise KeyError(f"{type(section).__name__} has no {name}")
    inner = getattr(section, name)
    return section.model_copy(update={name: _replaced(inner, keys[1:], value) if len(keys) > 1 else value})
