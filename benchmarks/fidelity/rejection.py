"""Rules by which a measured row is not trusted; every row that breaks one is listed, none is dropped by hand.

1. Implied arithmetic above 60 % of the dense peak: 2 x active parameters x tokens per second, both over the whole run
   (concurrency x (isl + osl) tokens in TTFT + osl x TPOT) and over the prompt alone (isl tokens in TTFT).
2. TPOT not monotone: more than 5 % below that of a sibling (same lengths and plan) at a lower concurrency.
3. Concurrency above 256, the smallest `max_num_seqs` an engine version defaults to, with the real limit not recorded.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from benchmarks.fidelity.servers.server import ServingGroup
from cluster_specs.cluster import ClusterSpec
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.roofline import peak_flop_per_s
from simulator.model.spec import ModelSpec

Row = Mapping[str, str]

MOST_OF_PEAK: Final = 0.60
TPOT_TOLERANCE: Final = 0.05
LEAST_DEFAULT_SEQS: Final = 256
_SIBLING: Final = ("isl", "osl", "gpus", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")


def rejections(rows: Sequence[Row], group: ServingGroup, model: ModelSpec, cluster: ClusterSpec) -> dict[str, str]:
    """Return the reason for each row of one group that is not trusted, by row id."""
    found: dict[str, str] = {}
    for row in rows:
        plan = group.plan_of(row)
        scheme = plan.weight_dtype or model.quantisation or model.dtype
        peak = peak_flop_per_s(cluster.device, SCHEMES[scheme].compute, None) * int(row["gpus"])
        share = implied_flop_per_s(row, model.active_parameters()) / peak
        if share > MOST_OF_PEAK:
            found[row["id"]] = f"implies {share:.0%} of the dense peak"
        elif int(row["concurrency"]) > LEAST_DEFAULT_SEQS:
            found[row["id"]] = f"concurrency {row['concurrency']} with no recorded max_num_seqs"
        elif (lower := _faster_than_lighter_load(row, rows)) is not None:
            found[row["id"]] = lower
    return found


def implied_flop_per_s(row: Row, active_parameters: int) -> float:
    """Arithmetic rate the row's tokens need at least."""
    isl, osl, concurrency = (int(row[name]) for name in ("isl", "osl", "concurrency"))
    ttft_s, tpot_s = float(row["silicon_ttft_ms"]) / 1e3, float(row["silicon_tpot_ms"]) / 1e3
    tokens_per_s = max(isl / ttft_s, concurrency * (isl + osl) / (ttft_s + osl * tpot_s))
    return 2.0 * active_parameters * tokens_per_s


def _faster_than_lighter_load(row: Row, rows: Sequence[Row]) -> str | None:
    """Say which lower concurrency took longer per token; repeats of one setting count with their median."""
    tpots: dict[int, list[float]] = {}
    for other in rows:
        if all(other[name] == row[name] for name in _SIBLING):
            tpots.setdefault(int(other["concurrency"]), []).append(float(other["silicon_tpot_ms"]))
    own = float(row["silicon_tpot_ms"])
    for concurrency, values in sorted(tpots.items()):
        median = float(np.median(values))
        if concurrency < int(row["concurrency"]) and own < (1 - TPOT_TOLERANCE) * median:
            return f"TPOT {own:.1f} ms, but {median:.1f} ms at concurrency {concurrency}"
    return None
