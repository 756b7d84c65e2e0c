"""A calibration as text and as plain values: what was told, what was not, and what it is worth."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.table import Table

from simulator.calibration.calibrate import Calibration, name_of
from simulator.calibration.leave_one_out import MOST_WORSE
from simulator.calibration.unknowns import HALF_WIDTH, Unknown
from simulator.report.formats import number, rendered, title


def calibration_text(found: Calibration) -> str:
    """Describe the constants told, name those that are not, and give the errors of every run."""
    parts = [f"constants told by {len(found.runs)} runs", rendered(_constants(found))] if found.estimate.kept else []
    return "\n\n".join([*parts, "\n".join(_untold(found)), rendered(_errors(found)), verdict(found)])


def calibration_json(found: Calibration) -> dict[str, Any]:
    """Return the same as plain values."""
    widths = np.sqrt(np.diag(found.estimate.covariance)).tolist()
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
                "told": unknown.at(float(found.estimate.moves[place])),
                "told_error": _half_width(unknown, width, unknown.at(float(found.estimate.moves[place]))),
            }
            for place, width in zip(found.estimate.kept, widths, strict=True)
            for unknown in [found.unknowns[place]]
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
        "left_out_harms": found.left_out.harms,
        "values": {section: {key: float(value) for key, value in own.items()} for section, own in found.values.items()},
        "verdict": verdict(found),
    }


def verdict(found: Calibration) -> str:
    """Say in one sentence what the calibration is worth on a run it has not seen."""
    before, after = (_mean_error(errors) for errors in (found.left_out.before, found.left_out.after))
    said = f"mean error of a run left out: {before:.1%} as the profile is, {after:.1%} calibrated on the others"
    if not found.estimate.kept:
        return f"{said}; the runs tell no constant, and the profile stays as it is"
    if found.left_out.harms:
        return (
            f"{said}, in deviations more than {MOST_WORSE:g} times as far off: calibrating would harm, and the "
            "profile's values are kept"
        )
    return said


def _mean_error(log_errors: Any) -> float:
    return float(np.abs(np.expm1(log_errors)).mean())


def _constants(found: Calibration) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "profile", "told", "error left"):
        table.add_column(head, justify="left" if not head else "right")
    widths = np.sqrt(np.diag(found.estimate.covariance)).tolist()
    for place, width in zip(found.estimate.kept, widths, strict=True):
        unknown = found.unknowns[place]
        value = unknown.at(float(found.estimate.moves[place]))
        table.add_row(
            name_of(unknown),
            _with_error(unknown.value, _half_width(unknown, 1.0, unknown.value)),
            _with_error(value, _half_width(unknown, width, value)),
            f"{width:.0%}",
        )
    return table


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
    if found.stream_interval is not None:
        yield f"tokens come {number(found.stream_interval)} at a time: streaming.interval"


def _rows(found: Calibration) -> Iterator[tuple[int, str, float, float, float]]:
    errors = (found.left_out.before, found.estimate.after, found.left_out.after)
    yield from zip(found.evidence.runs, found.evidence.metrics, *errors, strict=True)


def _errors(found: Calibration) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("run", "plan", "", "as it is", "fitted", "left out"):
        table.add_column(head, justify="left" if head in {"run", "plan", ""} else "right")
    for run, metric, *errors in _rows(found):
        own = found.runs[int(run)]
        cells = (f"{100 * math.expm1(error):+.1f} %" for error in errors)
        table.add_row(own.name, own.deployment.plan, title(str(metric)), *cells)
    return table
