"""Corrections of calls that are derived, not fitted: chunks behind a prefix, unequal lengths, mixed calls.

A kind measured often enough gets the median ratio of measured to derived time and the conformal half-width around it.
Runs in ``apex fit`` only.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.domain import OutOfDomain
from costmodel.forms.attention import AttentionForm
from costmodel.holdout import conformal_half_width
from costmodel.knots import Derived, FamilyKnots
from costmodel.power import PowerModel
from costmodel.pricing import Pricing
from costmodel.row_ops import iter_row_ops

Columns = Mapping[str, NDArray[np.generic]]

FEWEST_DERIVED_ROWS = 6
# Mixed calls may hold chunks and unequal lengths: their correction comes on top of those.
KINDS = ("prefix", "unequal", "several", "mixed")


def kind_of_rows(columns: Columns) -> NDArray[np.str_]:
    """Name the derived kind of each attention row; the first that applies, mixed calls before all."""
    prefill, decode = columns["num_prefill"].astype(np.int64) > 0, columns["num_decode"].astype(np.int64) > 0
    conditions = [
        prefill & decode,
        decode & (columns["decode_q"].astype(np.int64) > 1),
        decode & (columns["decode_kv_max"].astype(np.int64) > columns["decode_kv"].astype(np.int64)),
    ]
    return np.select(conditions, ["mixed", "several", "unequal"], "prefix").astype(np.str_)


def with_derived(knots: FamilyKnots, columns: Columns, cluster: ClusterSpec) -> FamilyKnots:
    """Correct each kind by its unlocked rows; kinds with too few rows stay as derived."""
    unlocked = np.isnan(columns["clock_mhz"].astype(np.float64))
    kinds = kind_of_rows(columns)
    for kind in KINDS:
        own = unlocked & (kinds == kind)
        if np.count_nonzero(own) < FEWEST_DERIVED_ROWS:
            continue
        part = {name: column[own] for name, column in columns.items()}
        error = _log_ratios(knots, part, cluster)
        error = error[~np.isnan(error)]
        if len(error) < FEWEST_DERIVED_ROWS:
            continue
        middle = float(np.median(error))
        found = Derived(
            factor=float(np.exp(middle)), log_half_width=conformal_half_width(error - middle), points=len(error)
        )
        knots = replace(knots, derived=knots.derived | {kind: found})
    return knots


def _log_ratios(knots: FamilyKnots, columns: Columns, cluster: ClusterSpec) -> NDArray[np.float64]:
    """ln(measured / derived) of each row; NaN where the knots have no price."""
    pricing = Pricing(
        cluster=cluster,
        clock_mhz=None,
        measured_mhz=cluster.device.clock.max_mhz,
        policy=OutOfDomain.ROOFLINE,
        power=PowerModel.from_device(cluster.device),
    )
    form = AttentionForm(knots, pricing)
    latency_s = columns["latency_s"].astype(np.float64)
    ratio = np.full(len(latency_s), np.nan)
    for op, rows in iter_row_ops("attention", columns, cluster):
        found = form.predict(op)
        if found is not None:
            ratio[rows] = np.log(latency_s[rows] / found.latency_s)
    return ratio
