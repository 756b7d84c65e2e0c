"""Tables, numbers in words and answers of apex commands, for the page of a campaign."""

import json
import subprocess
import sys
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from costmodel.fitted.held_out import relative_error

APEX: Final = (sys.executable, "-c", "from simulator.cli import main; main()")


def table(head: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """Lay out a Markdown table; columns whose head starts with # are numbers."""
    names = list(head)
    text = "| " + " | ".join(name.removeprefix("#") for name in names) + " |\n"
    text += "|" + "|".join("---:" if name.startswith("#") else "---" for name in names) + "|\n"
    cells = ([str(cell).replace("|", " ") for cell in line] for line in lines)
    return text + "".join("| " + " | ".join(line) + " |\n" for line in cells) + "\n"


def short(op: str) -> str:
    """Leave out of an op's text what says that something is not there."""
    return " ".join(word for word in op.split() if word.partition("=")[2] not in {"0", "none", "False"})


def errors_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Points, median, 90th percentile and bias of errors."""
    median, p90, bias = (relative_error(row[name]) for name in ("median_log", "p90_log", "bias_log"))
    return f"{row['points']:,}", f"{median:.1%}", f"{p90:.1%}", f"{bias:+.1%}"


def spread(ratios: "np.ndarray[Any, Any]") -> tuple[str, ...]:
    """Points, 10th percentile, median and 90th percentile of ratios."""
    return f"{len(ratios):,}", *(f"{np.quantile(ratios, share):.3f}" for share in (0.1, 0.5, 0.9))


def ask(*arguments: str) -> Any:
    """Run an apex command for its JSON."""
    done = subprocess.run([*APEX, *arguments, "--json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)
