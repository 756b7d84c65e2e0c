"""Rows as a person reads them: units named by the column's suffix become units in the cell.

Natural logarithms of ratios (``_log``) are shown as the per cent that the ratio is off 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from costmodel.fitted.held_out import relative_error


def heading(column: str) -> str:
    """Column name without its unit suffix, in words."""
    for suffix in ("_frac", "_log", "_s", "_mhz"):
        column = column.removesuffix(suffix)
    return column.replace("_", " ")


def cell(column: str, value: object) -> str:
    """One value with its unit."""
    if value is None:
        return "-"
    if isinstance(value, float):
        if column.endswith("_log"):
            value = relative_error(value)
        if column.endswith(("_frac", "_log")):
            return f"{value:+.1%}" if column.startswith("bias") else f"{value:.1%}"
        if column.endswith("_mhz"):
            return f"{value:.0f} MHz"
        return _seconds(value) if column.endswith("_s") else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _seconds(value: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value * 1e6:.4g} us"


def is_text(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column holds words, which read from the left."""
    return isinstance(rows[0][column], str)


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Align rows of equal keys for a terminal; empty for no rows."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [[heading(name) for name in columns]] + [[cell(name, row[name]) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    left = [is_text(rows, name) for name in columns]
    return "\n".join(
        "  ".join(
            text.ljust(width) if to_left else text.rjust(width)
            for text, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )
