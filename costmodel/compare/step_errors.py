"""How wrong a step of the user's model is: a fit's intervals at the shapes of a manifest, weighted by their shares."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from cluster_specs.errors import UserError
from costmodel.cost_model import CostModel, Source
from costmodel.families.all import OP_FAMILIES
from costmodel.families.rows import iter_row_ops
from costmodel.fitted.held_out import relative_error
from costmodel.ops.arrays import Array
from profiles_db.manifest import SHARES, ShapeManifest

_STEPS: Final[Mapping[str, str]] = dict(zip(SHARES, ("prefill", "decode"), strict=True))


def step_error_rows(manifest: ShapeManifest, costs: CostModel) -> list[dict[str, Any]]:
    """Return a row per step and family, and one per step: its share, what of it is measured, its 90 % half-width.

    Raises ``UserError`` for a manifest of before there were shares.
    """
    if not manifest.shares:
        raise UserError(
            "the manifest says no shares of a step", hint="write it again with this version's `apex shapes`"
        )
    rows = []
    for share, step in _STEPS.items():
        parts = {family: _part(family, table, share, costs) for family, table in manifest.shares.items()}
        parts = {family: part for family, part in parts.items() if part["share_frac"]}
        rows += [{"step": step, "family": family, **part} for family, part in parts.items()]
        wrong = step_half_width(part["share_frac"] * part["interval_log"] for part in parts.values())
        known = sum(part["share_frac"] * part["measured_frac"] for part in parts.values())
        whole = sum(part["share_frac"] for part in parts.values())
        rows.append(
            {"step": step, "family": "all", "share_frac": whole, "measured_frac": known / whole, "interval_log": wrong}
        )
    return rows


def step_half_width(parts: Iterable[float]) -> float:
    """Return a step's half-width from those of its families, each times its share of the step.

    Errors within a family have a cause in common and add up; those of families are independent and add up in squares.
    """
    return math.sqrt(sum(part**2 for part in parts))


def _part(family: str, table: pa.Table, share: str, costs: CostModel) -> dict[str, Any]:
    weight = table[share].to_numpy()
    width, source = widths_and_sources(family, table, costs)
    total = float(weight.sum())
    mean = total or 1.0
    return {
        "share_frac": total,
        "measured_frac": float(weight @ (source <= Source.FITTED)) / mean,
        "interval_log": float(weight @ width) / mean,
    }


def widths_and_sources(family: str, table: pa.Table, costs: CostModel) -> tuple[Array, Array]:
    """Return the half-width of each shape's interval in natural log, and the ``Source`` of its price."""
    columns = {name: np.asarray(table[name].to_pylist()) for name in table.column_names}
    columns["latency_s"] = np.ones(table.num_rows)
    width, source = np.zeros((2, table.num_rows))
    for op, rows in iter_row_ops(OP_FAMILIES[family], columns, costs.cluster):
        price = costs.predict(op)
        width[rows] = np.log(price.high_s / price.low_s) / 2.0
        source[rows] = price.source
    return width, source


def error_text(log_error: float) -> str:
    """Return an error in words: a share of the step, or a factor where that share would be more than the whole."""
    error = relative_error(log_error)
    return f"{error:.1%}" if error < 1.0 else f"a factor of {1.0 + error:.1f}"


def step_verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how wrong each step may be, and which family's fault that is."""
    said = []
    for step in _STEPS.values():
        own = [row for row in rows if row["step"] == step]
        whole = own[-1]
        worst = max(own[:-1], key=lambda row: float(row["share_frac"] * row["interval_log"]))
        said.append(
            f"A {step} step is priced to {error_text(whole['interval_log'])} in nine of ten cases, most of it "
            f"from {worst['family']} ({worst['share_frac']:.0%} of the step)."
        )
    return " ".join(said)
