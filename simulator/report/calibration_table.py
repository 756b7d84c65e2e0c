"""A calibration as text and as plain values: what was told, what was not, and what it is worth."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from simulator.calibration.calibrate import Calibration, name_of
from simulator.calibration.unknowns import HALF_WIDTH, Unknown, profile_at
from simulator.report.formats import number, title
from simulator.report.text_table import text_table


def calibration_text(found: Calibration) -> str:
    """Describe the constants told, name those that are not, and give the errors of every run."""
    parts = [f"constants told by {len(found.runs)} runs", _constants(found)] if _told(found) else []
    return "\n\n".join([*parts, "\n".join(_untold(found)), _errors(found), verdict(found)])


def calibration_json(found: Calibration) -> dict[str, Any]:
    """Return the same as plain values."""
    return {
        "runs": [
            {
                "name": run.name,
                "plan": run.deployment.plan,
                "settings": run.deployment.stated(),
            }
            for run in found.runs
        ],
        "constants": [
            {
                "name": name_of(unknown),
                "profile": unknown.value,
                "profile_error": _half_width(unknown, 1.0, unknown.value),
                "told": value,
                "told_error": _half_width(unknown, width, value),
            }
            for unknown, value, width in _told(found)
        ],
        "not_told": [
            {
                "name": name_of(found.unknowns[item.place]),
                "like": None if item.like is None else name_of(found.unknowns[item.like]),
            }
            for item in found.untold
        ],
        "stream_interval": found.stream_interval,
        "errors": [
            {
                "run": found.runs[int(run)].name,
                "metric": str(metric),
                "before_frac": math.expm1(before),
                "fitted_frac": math.expm1(after),
                "left_out_frac": math.expm1(left_out),
            }
            for run, metric, before, after, left_out in _rows(found)
        ],
        "width": found.width,
        "values": {
            section: {key: float(value) for key, value in own.items() if isinstance(value, float)}
            for section, own in found.values.items()
        },
        "kv_blocks": [asdict(item) for item in found.memory.blocks],
        "load_factors": [
            {"tokens": tokens, "ranks": ranks, "factor": factor} for tokens, ranks, factor in _loads(found)
        ],
        "verdict": verdict(found),
    }


def verdict(found: Calibration) -> str:
    """Say in one sentence what the calibration is worth on a run it has not seen."""
    before, after = (_mean_error(errors) for errors in (found.left_out.before, found.left_out.after))
    said = f"mean error of a run left out: {before:.1%} as the profile is, {after:.1%} calibrated on the others"
    if not found.estimate.kept:
        return f"{said}; the runs tell nothing, and the profile stays as it is"
    if not found.width:
        return (
            f"{said}; the runs are likelier of a server as the profile has it than of another: the profile's values "
            "are kept"
        )
    if found.width < 1.0:
        return f"{said}; the server is nearer to its profile than others are, and its constants move by less"
    return said


def _mean_error(log_errors: Any) -> float:
    return float(np.abs(np.expm1(log_errors)).mean())


def _constants(found: Calibration) -> str:
    rows = (
        (
            name_of(unknown),
            _with_error(unknown.value, _half_width(unknown, 1.0, unknown.value)),
            _with_error(value, _half_width(unknown, width, value)),
            f"{width:.0%}",
        )
        for unknown, value, width in _told(found)
    )
    return text_table(("", "profile", "told", "error left"), rows, left={""})


def _told(found: Calibration) -> list[tuple[Unknown, float, float]]:
    """Return each constant told, its value, and what is left of its error."""
    widths = np.sqrt(np.diag(found.estimate.covariance)).tolist()
    told = [(found.unknowns[place], place, width) for place, width in zip(found.estimate.kept, widths, strict=True)]
    moves = found.estimate.moves.tolist()
    return [(unknown, unknown.at(moves[place]), width) for unknown, place, width in told if unknown.load is None]


def _half_width(unknown: Unknown, width: float, value: float) -> float:
    """Return half a 90 % interval, where the unknown is known to ``width`` of its first error."""
    own = HALF_WIDTH * unknown.error * width
    return value * math.expm1(own) if unknown.is_factor else own


def _with_error(value: float, error: float) -> str:
    return f"{value:.3g} +- {error:.2g}"


def _untold(found: Calibration) -> Iterator[str]:
    alike = [item for item in found.untold if item.like is not None]
    silent = [name_of(found.unknowns[item.place]) for item in found.untold if item.like is None]
    for item in alike:
        assert item.like is not None
        name, other = name_of(found.unknowns[item.place]), name_of(found.unknowns[item.like])
        yield f"not told apart from {other}: {name} (left as the profile has it)"
    if silent:
        yield f"not told: {', '.join(silent)} (left as the profile has them)"
    constants = ", ".join(f"memory.{key} {value:.4g}" for key, value in found.memory.values.items())
    for blocks in found.memory.blocks:
        yield (
            f"KV blocks of {blocks.plan}: {blocks.logged:,} logged, {blocks.before:,} as the profile counts, "
            f"{blocks.after:,} with {constants}"
        )
    if loads := list(_loads(found)):
        told = ", ".join(f"{tokens:,} on {ranks} x {factor:.3f}" for tokens, ranks, factor in loads)
        yield f"besides, steps by tokens on ranks take their time times (load_factors): {told}"
    if found.stream_interval is not None:
        yield f"tokens come {number(found.stream_interval)} at a time: streaming.interval"


def _loads(found: Calibration) -> Iterator[tuple[int, int, float]]:
    """Return the factor at every point of a load: its tokens, its ranks."""
    factors = profile_at(found.profile, found.unknowns, found.estimate.moves.tolist()).load_factors
    for point in factors.points:
        yield point.tokens, point.ranks, float(factors.at(np.array([point.tokens]), point.ranks)[0])


def _rows(found: Calibration) -> Iterator[tuple[int, str, float, float, float]]:
    errors = (found.left_out.before, found.estimate.after, found.left_out.after)
    yield from zip(found.evidence.runs, found.evidence.metrics, *errors, strict=True)


def _errors(found: Calibration) -> str:
    rows: list[tuple[str, ...]] = []
    for run, metric, *errors in _rows(found):
        own = found.runs[int(run)]
        cells = (f"{100 * math.expm1(error):+.1f} %" for error in errors)
        rows.append((own.name, own.deployment.plan, title(str(metric)), *cells))
    return text_table(("run", "plan", "", "as it is", "fitted", "left out"), rows, left={"run", "plan", ""})
