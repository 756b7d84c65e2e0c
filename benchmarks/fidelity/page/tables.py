"""Markdown tables and folded parts of a page."""

import math
from collections.abc import Iterable, Sequence

from simulator.validation.summary import Agreement


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int = 1) -> str:
    """Return a Markdown table; the first ``texts`` columns are aligned left, the others right."""
    marks = ["---" if index < texts else "---:" for index in range(len(columns))]
    lines = [columns, marks, *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines) + "\n"


def folded(title: str, text: str) -> str:
    """Return a part of a page that is opened by a click."""
    return f"<details><summary>{title}</summary>\n\n{text.strip()}\n\n</details>\n\n"


def percent(fraction: float) -> str:
    """Return a fraction in percent with one decimal; a dash where it is unknown."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def spelled(found: Agreement | None, absent: str = "none") -> str:
    """Return mean, median and 90th percentile of the absolute errors and the signed bias, in percent."""
    if found is None:
        return absent
    sizes = (found.mape_frac, found.median_frac, found.p90_frac)
    return f"{' / '.join(percent(size) for size in sizes)} / {100 * found.bias_frac:+.1f}"
