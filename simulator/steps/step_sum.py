"""Sums of priced ops over one step: time by label with its interval, energy and work."""

from collections.abc import Container, Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from costmodel.ops.arrays import Array
from costmodel.ops.op_types import Op
from simulator.steps.op_curves import OpCurve, OpCurves, label

IntervalEnd = Literal["low", "middle", "high"]  # best estimate, or an end of its 90 % interval


class StepSum:
    """Sum of op curves over one step, by label.

    Errors of one op are the same in every layer that runs it, errors of different ops are independent: half-widths
    add up within an op and in quadrature across ops.
    """

    def __init__(self, points: int) -> None:
        self.latency_s = np.zeros(points)
        self.by_label: dict[str, Array] = {}
        self._added: list[tuple[str, OpCurve, float]] = []
        self._widths: dict[IntervalEnd, dict[str, Array]] = {}  # half-widths by label, added up when asked for

    def add(self, name: str, curve: OpCurve, times: float = 1.0) -> None:
        """Add ``times`` calls of an op."""
        added_s = curve.latency_s if times == 1.0 else times * curve.latency_s
        self.latency_s = self.latency_s + added_s
        self.by_label[name] = self.by_label.get(name, 0.0) + added_s
        self._added.append((name, curve, times))
        self._widths.clear()

    def scaled(self, factor: Array) -> "StepSum":
        """Return the sum with the time and energy of every op times ``factor``, a number per point."""
        other = StepSum(len(self.latency_s))
        for name, curve, times in self._added:
            other.add(name, curve.scaled(factor), times)
        return other

    @property
    def energy_j(self) -> Array:
        """Energy of the sum, added up when it is asked for: of most plans of a search it never is."""
        return self._total("energy_j")

    @property
    def flop(self) -> Array:
        """FLOP of the sum."""
        return self._total("flop")

    @property
    def io_bytes(self) -> Array:
        """Memory bytes of the sum."""
        return self._total("io_bytes")

    def _total(self, quantity: Literal["energy_j", "flop", "io_bytes"]) -> Array:
        return sum((times * getattr(curve, quantity) for _, curve, times in self._added), np.zeros_like(self.latency_s))

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
            kept = {"energy_j": nothing, "flop": nothing, "io_bytes": nothing}
            timed = {name: np.where(where, getattr(curve, name), 0.0) for name in ("latency_s", "low_s", "high_s")}
            self.add(label(op), OpCurve(**timed, **kept), -times)

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
