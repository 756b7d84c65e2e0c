"""Every plan of a search, one row each: those that keep the limits, best first, those that break one, the refused."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from simulator.outputs.tables import unit_table


def plans_table(answer: Mapping[str, Any]) -> pa.Table:
    """Return one row per plan of a search's JSON, metrics under their paths (``ttft_s.p99``), null where unknown.

    ``breaks`` holds the limits broken, ``refused`` the reason why a plan cannot start, ``saturation`` the verdict on
    its load; null where there is none.
    """
    rows = [
        {
            "plan": plan["plan"],
            "devices": plan["devices"],
            "breaks": "; ".join(plan["breaks"]) or None,
            "refused": None,
            "saturation": plan.get("saturation", {}).get("verdict"),
            **dict(_flat("", plan["metrics"])),
        }
        for plan in answer["plans"]
    ]
    rows += [{"plan": refusal["plan"], "refused": refusal["reason"]} for refusal in answer["rejected"]]
    names = dict.fromkeys(name for row in rows for name in row)
    return unit_table({name: pa.array([row.get(name) for row in rows]) for name in names}, kind="plans")


def _flat(path: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name every value inside nested mappings by its path."""
    for key, value in values.items():
        own = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _flat(own, value)
        else:
            yield own, value
