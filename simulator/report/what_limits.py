"""What keeps a plan from being faster, said of its result in the JSON: KV memory, or a kind of device work.

The kind is the largest share of the devices' time. Kernels are bound by memory where they reach more of the device's
bandwidth than of its arithmetic (MBU and MFU, both of the stated peaks), else by arithmetic.
"""

from collections.abc import Mapping
from typing import Any, Final

from profiles_db.collective_kinds import COLLECTIVE_KINDS

_FULL_FRAC: Final = 0.98  # of the KV blocks at the peak
_APART: Final = {"idle": "waiting for requests", "host": "the engine's own code", "bubble": "pipeline bubbles"}
# Where the ops of a plan's devices are in its metrics, by the pool.
OPS: Final = {"": "breakdown_ops", "prefill": "prefill_ops", "decode": "decode_ops"}


def limiting(plan: Mapping[str, Any]) -> str:
    """Name what limits a plan in a few words, of two pools each."""
    metrics = plan["metrics"]
    found = []
    for pool in OPS:
        shares = kinds(plan, pool)
        if not shares:
            continue
        is_full = _is_full(metrics[pool] if pool else metrics)
        kind = "KV memory" if is_full else max(shares, key=lambda name: shares[name])
        found.append(f"{pool}: {kind}" if pool else kind)
    return "; ".join(found)


def kinds(plan: Mapping[str, Any], pool: str) -> dict[str, float]:
    """Sum the shares of the devices' time by what they wait for: arithmetic, memory, others, the host, requests."""
    metrics = plan["metrics"]
    if OPS[pool] not in metrics:
        return {}
    mfu, mbu = (None, None) if pool else (metrics.get("mfu_frac"), metrics.get("mbu_frac"))
    kernels = "kernels" if mfu is None or mbu is None else "memory bandwidth" if mbu > mfu else "arithmetic"
    found: dict[str, float] = {}
    for key, part in metrics[OPS[pool]].items():
        name = key.removesuffix("_frac")
        kind = _APART.get(name) or ("communication" if name in COLLECTIVE_KINDS else kernels)
        found[kind] = found.get(kind, 0.0) + float(part or 0.0)
    return found


def _is_full(own: Mapping[str, Any]) -> bool:
    return bool(own.get("preemptions")) or (own.get("kv_peak_frac") or 0.0) >= _FULL_FRAC
