"""Sums of priced ops over one step: time by label with its interval, energy and work."""

from collections.abc import Callable, Container, Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from costmodel.ops.op_types import Op
from costmodel.power_model import PowerModel
from simulator.steps.op_curves import OpCurve, OpCurves, label

IntervalEnd = Literal["low", "middle", "high"]  # best estimate, or an end of its 90 % interval


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyParts:
    """Of a sum's joules, those above idle power that being awake takes, and what they are at both ends of another law.

    The law is how energy falls with the clock (``PowerModel.voltage_ends``).
    """

    awake_j: Array
    voltage_low_j: Array
    voltage_high_j: Array


class StepSum:
    """Sum of op curves over one step, by label.

    Errors of one op are the same in every layer that runs it, errors of different ops are independent: half-widths
    add up within an op and in quadrature across ops.
    """

    def __init__(self, points: int) -> None:
        self.latency_s = np.zeros(points)
        self.by_label: dict[str, Array] = {}
        self._added: list[tuple[str, OpCurve, float]] = []
        # What follows from the ops is added up when it is asked for, once: half-widths by label, totals, joules' parts.
        self._widths: dict[IntervalEnd, dict[str, Array]] = {}
        self._totals: dict[str, Array] = {}
        self._kept: dict[str, Array] = {}
        self._split: tuple[PowerModel, float | None, EnergyParts] | None = None
        self.parts: EnergyParts | None = None  # of steps under a power cap, each at a clock of its own

    def add(self, name: str, curve: OpCurve, times: float = 1.0) -> None:
        """Add ``times`` calls of an op."""
        added_s = curve.latency_s if times == 1.0 else times * curve.latency_s
        self.latency_s = self.latency_s + added_s
        self.by_label[name] = self.by_label.get(name, 0.0) + added_s
        self._added.append((name, curve, times))
        self._widths.clear()
        self._totals.clear()
        self._kept.clear()
        self._split = None

    def kept(self, name: str, work: Callable[[], Array]) -> Array:
        """Return what ``work`` makes of the ops, which is done once and goes by ``name``."""
        if name not in self._kept:
            self._kept[name] = work()
        return self._kept[name]

    def scaled(self, factor: Array) -> "StepSum":
        """Return the sum with the time and energy of every op times ``factor``, a number per point."""
        return self.changed(lambda curve: curve.scaled(factor))

    @property
    def energy_j(self) -> Array:
        """Energy of the sum, added up when it is asked for: of most plans of a search it never is."""
        return self._total("energy_j")

    @property
    def clocked_s(self) -> Array:
        """Part of the time that a lower clock stretches."""
        return self._total("clocked_s")

    @property
    def clocked_j(self) -> Array:
        """Part of the energy that follows the voltage."""
        return self._total("clocked_j")

    def energy_parts(self, power: PowerModel, clock_mhz: float | None) -> EnergyParts:
        """Split the joules of ops that all run at one clock, or as they run under their cap."""
        if self.parts is not None:
            return self.parts
        if self._split is not None and self._split[0] is power and self._split[1] == clock_mhz:
            return self._split[2]
        energy_j, clocked_j = self.energy_j, self.clocked_j
        awake_w, voltage = power.awake_w_at(clock_mhz), power.voltage_factor(clock_mhz)
        ends = [
            energy_j
            + clocked_j * (law.voltage_factor(clock_mhz) / voltage - 1.0)
            + (law.awake_w_at(clock_mhz) - awake_w) * self.latency_s
            for law in power.voltage_ends()
        ]
        parts = EnergyParts(
            awake_j=(awake_w - power.idle_w) * self.latency_s, voltage_low_j=ends[0], voltage_high_j=ends[1]
        )
        self._split = power, clock_mhz, parts
        return parts

    @property
    def flop(self) -> Array:
        """FLOP of the sum."""
        return self._total("flop")

    @property
    def io_bytes(self) -> Array:
        """Memory bytes of the sum."""
        return self._total("io_bytes")

    def _total(self, quantity: Literal["energy_j", "clocked_s", "clocked_j", "flop", "io_bytes"]) -> Array:
        if quantity not in self._totals:
            parts = (times * getattr(curve, quantity) for _, curve, times in self._added)
            self._totals[quantity] = sum(parts, np.zeros_like(self.latency_s))
        return self._totals[quantity]

    def add_all(self, ops: Iterable[Op], curves: OpCurves, times: float = 1.0) -> None:
        """Price and add a list of ops, each ``times`` over."""
        for op in ops:
            self.add(label(op), curves.price(op), times)

    def hide_all(self, ops: Iterable[Op], curves: OpCurves, where: NDArray[np.bool_], times: float = 1.0) -> None:
        """Take off the time of ops that were added and that at the points of ``where`` run beside others.

        Their energy and work stay.
        """
        for op in ops:
            curve = curves.price(op)
            nothing = np.zeros_like(curve.energy_j)
            kept = dict.fromkeys(("energy_j", "clocked_j", "flop", "io_bytes"), nothing)
            hidden = ("latency_s", "low_s", "high_s", "clocked_s")
            timed = {name: np.where(where, getattr(curve, name), 0.0) for name in hidden}
            self.add(label(op), OpCurve(**timed, **kept), -times)

    def changed(self, change: Callable[[OpCurve], OpCurve]) -> "StepSum":
        """Return the sum with every op's curve changed, and nothing else."""
        other = StepSum(len(self.latency_s))
        for name, curve, times in self._added:
            other.add(name, change(curve), times)
        return other

    def half_width_s(self, end: IntervalEnd, only: Container[str] | None = None) -> Array:
        """Return how far the low or high end is from the best estimate; ``only`` holds the labels at their ends."""
        if end == "middle":
            return np.zeros_like(self.latency_s)
        if end not in self._widths:
            self._widths[end] = self._widths_at(end)
        widths = self._widths[end]
        return _quadrature([widths[name] for name in widths if only is None or name in only], self.latency_s)

    def _widths_at(self, end: IntervalEnd) -> dict[str, Array]:
        widths: dict[str, Array] = {}
        for name, curve, times in self._added:
            width_s = curve.latency_s - curve.low_s if end == "low" else curve.high_s - curve.latency_s
            widths[name] = widths.get(name, 0.0) + times * width_s
        return widths


def _quadrature(widths: list[Array], like: Array) -> Array:
    return np.sqrt(sum((width**2 for width in widths), np.zeros_like(like)))
