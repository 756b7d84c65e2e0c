"""The power equation's constants from measured joules: non-negative least squares on watts.

P - P_idle = (P_awake - P_idle) a(clock) + v(clock) (sum over formats of e_flop flop/s + e_byte B/s)
           + (1 - v(clock)) e_dram B/s + e_link B/s

over calls that stay below the power limit; idle power is the spec's, e_dram a constant. ``v`` is a power of the clock,
whose exponent leaves the least squares where calls were measured at several clocks, and is recalled practice elsewhere;
its error is how much it changes as clocks are left out in turn. Runs in ``apex fit`` only.
"""

from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.all import OP_FAMILIES
from costmodel.families.rows import iter_row_ops
from costmodel.fitting.measurements import Measurements
from costmodel.ops.arrays import Array
from costmodel.ops.op_types import Collective
from costmodel.ops.roofline import compute_dtype, roofline
from costmodel.power_model import PowerModel

FEWEST_ENERGY_ROWS = 12
# Above this share of TDP the limit, not the work, decides.
_BELOW_LIMIT = 0.97
_FOLDS = 5
# A clock below this share of the top one tells of voltage.
_LOWER_CLOCK = 0.9
_MOST_EXPONENT = 4.0


def fit_power(measured: Mapping[str, Measurements], cluster: ClusterSpec) -> tuple[PowerModel | None, str]:
    """Fit the constants where joules were measured; the sentence says on how many rows, or why not."""
    prior = PowerModel.from_device(cluster.device)
    rates, watts, clocks, ops, formats = _rates(measured, cluster)
    usable = watts < _BELOW_LIMIT * prior.tdp_w
    if np.count_nonzero(usable) < FEWEST_ENERGY_ROWS:
        have = int(np.count_nonzero(usable))
        return None, f"{have} rows with joules below the power limit, {FEWEST_ENERGY_ROWS} needed: energy is derived"
    seen = _Seen(rates=rates[usable], watts=watts[usable], clocks=clocks[usable], ops=ops[usable])
    law, told_of_law = _with_exponent(prior, seen)
    constants = seen.constants(law)
    errors = seen.held_out(law)
    per_flop = {
        name: float(value) for name, value in zip(formats, constants[1 : 1 + len(formats)], strict=True) if value > 0
    }
    told = "of one op: no error" if errors is None else f"held-out median error of power {np.median(errors):.1%}"
    source = f"measured: {len(seen.watts)} rows with joules, {told}{told_of_law}"
    fitted = replace(
        law,
        awake_w=prior.idle_w + float(constants[0]),
        j_per_flop=prior.j_per_flop | per_flop,
        j_per_byte=float(constants[-2]) or prior.j_per_byte,
        j_per_link_byte=float(constants[-1]) or prior.j_per_link_byte,
        source=source,
        error_frac=law.error_frac if errors is None else float(np.quantile(errors, 0.9)),
    )
    return fitted, source


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Calls below the power limit: work per second [rows, awake | formats | memory | link], watts, clock and op."""

    rates: Array
    watts: Array
    clocks: Array  # NaN where unlocked
    ops: NDArray[np.int64]

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "_Seen":
        """Return some of the calls."""
        return _Seen(
            rates=self.rates[chosen], watts=self.watts[chosen], clocks=self.clocks[chosen], ops=self.ops[chosen]
        )

    def linear(self, law: PowerModel) -> tuple[Array, Array]:
        """Return what watts are linear in under a law of voltage, and the watts that no constant changes."""
        clocks = np.where(np.isnan(self.clocks), law.max_mhz, self.clocks)
        voltage, awake = law.voltage_factor(clocks), law.awake_factor(clocks)
        # Columns: awake, one per format, memory bytes, link bytes; the link is not scaled by the core's voltage.
        scale = np.column_stack([awake, *[voltage] * (self.rates.shape[1] - 2), np.ones_like(voltage)])
        return self.rates * scale, law.idle_w + (1.0 - voltage) * law.dram_j_per_byte * self.rates[:, -2]

    def constants(self, law: PowerModel) -> Array:
        """Fit the constants of the equation."""
        design, known_w = self.linear(law)
        return non_negative_least_squares(design, self.watts - known_w)

    def misfit(self, law: PowerModel) -> float:
        """Return the squares that the best constants leave."""
        design, known_w = self.linear(law)
        return float(np.sum((known_w + design @ self.constants(law) - self.watts) ** 2))

    def folds(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return rows kept and left out, whole ops together: those of one would tell the others of it."""
        from sklearn.model_selection import GroupKFold

        folds = min(_FOLDS, len(np.unique(self.ops)))
        return list(GroupKFold(folds).split(self.rates, groups=self.ops)) if folds > 1 else []

    def held_out(self, law: PowerModel) -> Array | None:
        """Return relative errors of power over folds that leave whole ops out; None where there is but one."""
        errors = []
        for kept, asked in self.folds():
            constants = self.rows(kept).constants(law)
            design, known_w = self.rows(asked).linear(law)
            errors.append(np.abs((known_w + design @ constants) / self.watts[asked] - 1.0))
        return np.concatenate(errors) if errors else None


def _with_exponent(prior: PowerModel, seen: _Seen) -> tuple[PowerModel, str]:
    """Fit how energy falls with the clock where calls at lower clocks tell it; the words say so."""
    lower = seen.clocks < _LOWER_CLOCK * prior.max_mhz  # unlocked is no lower clock
    if np.count_nonzero(lower) < FEWEST_ENERGY_ROWS or np.all(lower):
        return prior, ""
    exponent, error = _exponent(prior, seen), prior.voltage_exponent_error
    clocks = np.unique(seen.clocks[lower])
    if len(clocks) > 1:
        without = np.array([_exponent(prior, seen.rows(seen.clocks != clock)) for clock in clocks])
        jackknife = np.sqrt((len(clocks) - 1) * np.mean((without - without.mean()) ** 2))
        error = NormalDist().inv_cdf(0.95) * float(jackknife)
    law = replace(prior, voltage_exponent=exponent, voltage_exponent_error=error)
    return law, f"; energy goes with the clock to the power {exponent:.2f} +- {error:.2f}"


def _exponent(prior: PowerModel, seen: _Seen) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda exponent: seen.misfit(replace(prior, voltage_exponent=float(exponent))),
        bounds=(0.0, _MOST_EXPONENT),
        method="bounded",
    )
    return float(found.x)


def _rates(
    measured: Mapping[str, Measurements], cluster: ClusterSpec
) -> tuple[Array, Array, Array, NDArray[np.int64], tuple[str, ...]]:
    """Work per second of every row with joules: [rows, awake | formats | memory | link], its watts, clock and op."""
    parts: list[tuple[str, Array, Array, Array, Array, Array]] = []
    # Power follows from work and time: whose kernel it is does not matter.
    sources = [(name, rows) for name, found in measured.items() for rows in (found.columns, found.aside) if rows]
    for family, every in sources:
        known = ~np.isnan(every["energy_j"].astype(np.float64))
        columns = {name: column[known] for name, column in every.items()}
        for op, rows in iter_row_ops(OP_FAMILIES[family], columns, cluster):
            work = roofline(op, cluster)
            latency_s = columns["latency_s"].astype(np.float64)[rows]
            is_link = isinstance(op, Collective)
            moved = work.bytes / latency_s
            parts.append(
                (
                    compute_dtype(op),
                    np.broadcast_to(work.flop, latency_s.shape) / latency_s,
                    np.zeros_like(latency_s) if is_link else moved,
                    moved if is_link else np.zeros_like(latency_s),
                    columns["energy_j"].astype(np.float64)[rows] / latency_s,
                    columns["clock_mhz"].astype(np.float64)[rows],
                )
            )
    formats = tuple(sorted({part[0] for part in parts}))
    if not parts:
        return np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64), ()
    flop = [
        np.concatenate([part[1] if part[0] == name else np.zeros_like(part[1]) for part in parts]) for name in formats
    ]
    memory, link, watts, clock = (np.concatenate([part[index] for part in parts]) for index in (2, 3, 4, 5))
    ops = np.repeat(np.arange(len(parts)), [len(part[1]) for part in parts])
    return np.column_stack([np.ones_like(watts), *flop, memory, link]), watts, clock, ops, formats


def non_negative_least_squares(design: Array, target: Array) -> Array:
    """Least squares over ``design`` [rows, constants] with constants that cannot be negative.

    The optimum (Lawson and Hanson's active set), on columns scaled to 1: they differ by 20 orders of magnitude.
    """
    from scipy.optimize import nnls

    size = np.abs(design).max(axis=0)
    size[size == 0] = 1.0
    return np.asarray(nnls(design / size, target)[0] / size, dtype=np.float64)
