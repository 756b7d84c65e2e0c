"""The engine profile of a calibrated server as a file: what it extends, what its runs changed, and where from.

The same runs give the same bytes.
"""

import hashlib
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from cluster_specs.files.reading import read_document
from cluster_specs.files.toml_text import InlineTable, toml_text
from simulator.calibration.calibrate import Calibration
from simulator.engine_profiles.bundled_profiles import is_path, profile_for
from simulator.engine_profiles.constant import error_of
from simulator.engine_profiles.inheritance import SCHEMA
from simulator.engine_profiles.spread import NO_SPREAD

_DIGEST: Final = 12  # hexadecimal digits
_MOST_NAMED: Final = 8  # runs by name in the sources


def profile_text(found: Calibration, path: Path) -> str:
    """Return the TOML of a profile to be written to ``path``, which extends the one the runs were predicted with."""
    first = found.runs[0]
    engine, told = first.deployment.engine, first.server.version
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "name": path.stem,
        "extends": os.path.relpath(engine, path.parent) if is_path(engine) else profile_for(engine),
        **({} if told is None else {"version": told}),
        "source": provenance(found),  # of every table below
    }
    for section, own in found.values.items():
        values[section] = {key: _stated(value) for key, value in own.items()}
    for section in ("price_factors", "load_factors"):  # the tables of which no bundled profile states a source
        if section in values:
            values[section]["source"] = "the runs that this file names"
    if found.stream_interval is not None and found.profile.streaming is not None:
        values["streaming"] = {"interval": found.stream_interval}
    if "spread" in values:
        spread = found.profile.spread or NO_SPREAD
        for stand_in in ("other_version", "unmeasured_device", "other_tables"):
            # What stood in for the server's own kernels and version was measured along with it.
            if (widths := getattr(spread, stand_in)) is not None and widths.step_frac:
                values["spread"][stand_in] = {"step_frac": 0.0}
    return toml_text(values)


def provenance(found: Calibration) -> str:
    """Say what was measured where and when, as far as the results state it, with a digest of each of their files."""
    first = found.runs[0].deployment
    named = [f"{run.name} ({run.deployment.plan})" for run in found.runs[:_MOST_NAMED]]
    more = len(found.runs) - len(named)
    files = dict.fromkeys(path for run in found.runs if (path := _file(run.place)) is not None)
    days = sorted({run.day for run in found.runs if run.day is not None})
    when = f", measured {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    digests = [f"{path.name} {hashlib.sha256(read_document(path)).hexdigest()[:_DIGEST]}" for path in files]
    return (
        f"apex calibrate {_own_version()}: {len(found.runs)} runs of {first.model} on {first.cluster} under "
        f"{first.engine}{when}: {', '.join(named)}{f' and {more} more' if more else ''}; sha256 of {', '.join(digests)}"
    )


def _file(place: str) -> Path | None:
    """Return the file that a place is in."""
    parts: Sequence[str] = place.split(":")
    whole = (Path(":".join(parts[:end])) for end in range(len(parts), 0, -1))
    return next((path for path in whole if path.is_file()), None)


def _stated(value: Any) -> Any:
    if isinstance(value, list):
        return [InlineTable(**point.model_dump()) for point in value]
    error = error_of(value)
    return InlineTable(value=float(value), error=error) if error else float(value)


def _own_version() -> str:
    try:
        return version("apex-planner")
    except PackageNotFoundError:
        return "of a source tree"
