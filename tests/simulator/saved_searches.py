"""A small search with every kind of plan, saved as a person would save it; and larger results made of it."""

import copy
import json
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner

from simulator.cli import apex

SEARCH: Final = (
    "search --model llama-3.1-8b --cluster h100-sxm-2 --costs analytic --trace chat-synthetic --limit 30 --pools "
    "--slo tpot_s.mean<=0.005 --seqs default,64 --tokens default,32 --weights default,fp8 --top 3"
)


def saved(path: Path, *more: str) -> dict[str, Any]:
    """Search, write the JSON to ``path`` and return it."""
    done = CliRunner().invoke(apex, [*SEARCH.split(), "-o", str(path), *more])
    assert done.exit_code == 0, done.stderr
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def enlarged(document: dict[str, Any], plans: int) -> dict[str, Any]:
    """Return a result of so many plans: those of the search by turns, their numbers spread over a factor of four."""
    found = []
    for place in range(plans):
        plan = copy.deepcopy(document["plans"][place % len(document["plans"])])
        plan["plan"] += f"-s{place + 1}"
        factor = 0.5 + 1.5 * ((place * 7919) % plans) / plans
        plan["metrics"] = _scaled(plan["metrics"], factor)
        found.append(plan)
    order = ("ranked", "changing", "breaking")
    found.sort(key=lambda plan: order.index(plan["group"]))
    return {**document, "plans": found}


def _scaled(metrics: dict[str, Any], factor: float) -> dict[str, Any]:
    """Multiply latencies and divide rates; shares and counts stay."""
    scaled: dict[str, Any] = {}
    for name, value in metrics.items():
        if name.endswith("_per_s") and value is not None:
            scaled[name] = value / factor
        elif isinstance(value, dict) and name.endswith("_s"):
            scaled[name] = {key: None if inner is None else inner * factor for key, inner in value.items()}
        else:
            scaled[name] = value
    return scaled
