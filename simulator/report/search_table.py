"""The answer of a search on a terminal: as many columns as fit, and the best plan's command last."""

from typing import TYPE_CHECKING

from simulator.report.formats import columns
from simulator.report.search_answer import CHANGING, answer_lines, changing_ranking, headline, ranking, refusal_lines
from simulator.report.text_table import text_table

if TYPE_CHECKING:
    from simulator.search.search_result import SearchResult
    from simulator.serving import Serving
    from simulator.workload.parts import Traffic


def search_table(found: "SearchResult", serving: "Serving", workload: "Traffic", *, top: int) -> str:
    """Rank the plans, best first, name what was refused and why, and end with the best one's command."""
    lines = [headline(found, serving, workload), "", *_fitted(ranking(found, top=top))]
    left = len(found.ranked) + len(found.breaking) - top
    if left > 0:
        lines.append(f"... and {left} more (--top, --json)")
    if found.changing:
        lines += ["", CHANGING, *_fitted(changing_ranking(found, top=top))]
        if len(found.changing) > top:
            lines.append(f"... and {len(found.changing) - top} more (--top, --json)")
    if found.refused:
        reasons = list(refusal_lines((str(refusal.plan), refusal.reason) for refusal in found.refused))
        lines += ["", f"refused ({len(found.refused)}):", *(f"  {reason}" for reason in reasons[:top])]
        if len(reasons) > top:
            lines.append(f"  ... and {len(reasons) - top} more reasons (--top, --json)")
    return "\n".join([*lines, "", *answer_lines(found)])


def _fitted(rows: list[dict[str, str]]) -> list[str]:
    """Table of the rows with as many columns as the terminal holds."""
    if not rows:
        return []
    titles = list(rows[0])
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in titles]
    fitting = max(2, sum(sum(widths[: i + 1]) + 2 * i <= columns() for i in range(len(widths))))
    shown, left_out = titles[:fitting], titles[fitting:]
    table = text_table(
        shown, ([row[name] for name in shown] for row in rows), left={"plan", "loses in", "changes answers", "breaks"}
    )
    return [table, *([f"left out for width: {', '.join(left_out)}"] if left_out else [])]
