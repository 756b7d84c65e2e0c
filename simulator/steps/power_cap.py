"""A step under a power cap: the clock at which the power of the whole step meets the cap, and time and joules there.

With f the share of its clock that a step keeps, t the time that arithmetic does not stretch, c the time it does,

    T(f) = t + c / f        E(f) = P_awake(f) T(f) + D v(f) + R        E(f) = cap T(f)

where D are the joules that follow the voltage (v, see ``costmodel.power_model``) and R those of DRAM and links.
A driver's controller averages power over milliseconds, some steps and many kernels, so that one clock is found for all
kernels of a step and not one for each (decision 108). Where even the lowest clock draws more, the step takes as long as
its joules need at the cap.
"""

from dataclasses import replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from costmodel.power_model import PowerModel
from simulator.steps.op_curves import OpCurve
from simulator.steps.step_sum import EnergyParts, StepSum

Points = NDArray[np.int64] | NDArray[np.float64]

_HALVINGS: Final = 40
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Time and joules of work at the clock it is priced at, and the parts of both that follow the clock."""

    latency_s: Array
    clocked_s: Array
    energy_j: Array
    clocked_j: Array

    @classmethod
    def of(cls, work: StepSum | OpCurve) -> Self:
        """Read them off priced ops."""
        return cls(**{name: np.asarray(getattr(work, name), dtype=np.float64) for name in cls.__slots__})

    def at(self, points: Points, knots: Points) -> Self:
        """Interpolate between knots."""
        return type(self)(**{name: np.interp(points, knots, getattr(self, name)) for name in self.__slots__})

    def __add__(self, other: "Draw") -> "Draw":
        """Do one after the other."""
        return Draw(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """Share of its clock that a step keeps under a cap, and how many times longer it takes still; one per point."""

    clock_frac: Array
    stretch: Array

    def at(self, points: Points, knots: Points) -> "Throttle":
        """Interpolate between knots."""
        return Throttle(
            clock_frac=np.interp(points, knots, self.clock_frac), stretch=np.interp(points, knots, self.stretch)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCap:
    """A cap on what a device draws that is priced at ``clock_mhz``; ``law`` says how its power falls with the clock.

    ``power`` is what the joules of the prices follow from: the same, but where another law is tried on them.
    """

    cap_w: float
    power: PowerModel
    law: PowerModel
    clock_mhz: float

    def settle(self, step: Draw) -> Throttle:
        """Find the clock at which the power of a step meets the cap; its own where it draws less."""
        least_frac = min(1.0, self.law.least_mhz / self.clock_mhz)
        whole = np.ones_like(step.latency_s)
        is_over = self._is_over(step, whole)
        if not is_over.any():
            return Throttle(clock_frac=whole, stretch=whole)
        below, above = np.full_like(whole, least_frac), whole
        for _ in range(_HALVINGS):
            middle = np.sqrt(below * above)
            too_fast = self._is_over(step, middle)
            below, above = np.where(too_fast, below, middle), np.where(too_fast, middle, above)
        clock_frac = np.where(is_over, below, 1.0)
        awake_w = self.law.awake_w_at(clock_frac * self.clock_mhz)
        latency_s = self._clocked_latency_s(step, clock_frac)
        work_j = self._joules(step, clock_frac, latency_s) - awake_w * latency_s
        is_over = is_over & self._is_over(step, clock_frac)
        needed_s = np.divide(work_j, self.cap_w - awake_w, out=latency_s.copy(), where=is_over)
        stretch = np.divide(needed_s, latency_s, out=np.ones_like(whole), where=is_over)
        return Throttle(clock_frac=clock_frac, stretch=stretch)

    def latency_s(self, work: Draw, throttle: Throttle) -> Array:
        """Return the time that work of a step takes under its throttle."""
        return self._clocked_latency_s(work, throttle.clock_frac) * throttle.stretch

    def energy_j(self, work: Draw, throttle: Throttle) -> Array:
        """Return the joules that work of a step takes under its throttle."""
        return self._joules(work, throttle.clock_frac, self.latency_s(work, throttle))

    def awake_j(self, work: Draw, throttle: Throttle) -> Array:
        """Return the joules above idle power that being awake takes meanwhile."""
        awake_w = self.law.awake_w_at(throttle.clock_frac * self.clock_mhz)
        return (awake_w - self.law.idle_w) * self.latency_s(work, throttle)

    def _clocked_latency_s(self, work: Draw, clock_frac: Array) -> Array:
        return work.latency_s + work.clocked_s * (1.0 / clock_frac - 1.0)

    def _joules(self, work: Draw, clock_frac: Array, latency_s: Array) -> Array:
        mhz = clock_frac * self.clock_mhz
        rest_j = work.energy_j - self.power.awake_w_at(self.clock_mhz) * work.latency_s - work.clocked_j
        voltage = self.law.voltage_factor(mhz) / self.power.voltage_factor(self.clock_mhz)
        return np.asarray(self.law.awake_w_at(mhz) * latency_s + work.clocked_j * voltage + rest_j)

    def _is_over(self, step: Draw, clock_frac: Array) -> NDArray[np.bool_]:
        latency_s = self._clocked_latency_s(step, clock_frac)
        return self._joules(step, clock_frac, latency_s) > self.cap_w * latency_s * (1.0 + _ROUNDING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottledSteps:
    """Steps throttled by a cap, at the best estimate and at both ends of how power falls with the clock."""

    cap: PowerCap
    throttle: Throttle
    ends: tuple[tuple[PowerCap, Throttle], tuple[PowerCap, Throttle]]  # where energy falls most with the clock, least

    @classmethod
    def under(cls, cap: PowerCap, step: Draw) -> Self:
        """Settle steps."""
        most, least = (replace(cap, law=law) for law in cap.law.voltage_ends())
        ends = (most, most.settle(step)), (least, least.settle(step))
        return cls(cap=cap, throttle=cap.settle(step), ends=ends)

    def at(self, points: Points, knots: Points) -> Self:
        """Interpolate between knots."""
        most, least = ((cap, throttle.at(points, knots)) for cap, throttle in self.ends)
        return replace(self, throttle=self.throttle.at(points, knots), ends=(most, least))

    @property
    def are_free(self) -> bool:
        """Whether the cap leaves all of them as they are, whichever way power falls."""
        every = [self.throttle, *(throttle for _, throttle in self.ends)]
        return all((one.clock_frac == 1.0).all() and (one.stretch == 1.0).all() for one in every)

    def applied(self, total: StepSum) -> StepSum:
        """Return a sum of ops that these steps run, a point for a point, as they run under the cap."""
        found = total.changed(self._curve)
        whole = Draw.of(total)
        most_j, least_j = (cap.energy_j(whole, throttle) for cap, throttle in self.ends)
        found.parts = EnergyParts(
            awake_j=self.cap.awake_j(whole, self.throttle),
            voltage_low_j=np.minimum(most_j, found.energy_j),
            voltage_high_j=np.maximum(least_j, found.energy_j),
        )
        return found

    def _curve(self, curve: OpCurve) -> OpCurve:
        work = Draw.of(curve)
        latency_s = self.cap.latency_s(work, self.throttle)
        ends_s = [cap.latency_s(work, throttle) for cap, throttle in self.ends]
        ratio = np.divide(latency_s, work.latency_s, out=np.ones_like(latency_s), where=work.latency_s != 0.0)
        below = np.hypot(
            (curve.latency_s - curve.low_s) * ratio, latency_s - np.minimum(latency_s, np.minimum(*ends_s))
        )
        above = np.hypot(
            (curve.high_s - curve.latency_s) * ratio, np.maximum(latency_s, np.maximum(*ends_s)) - latency_s
        )
        law = self.cap.law
        mhz = self.throttle.clock_frac * self.cap.clock_mhz
        return replace(
            curve,
            latency_s=latency_s,
            low_s=np.maximum(latency_s - below, 0.0),
            high_s=latency_s + above,
            energy_j=self.cap.energy_j(work, self.throttle),
            clocked_s=curve.clocked_s / self.throttle.clock_frac * self.throttle.stretch,
            clocked_j=curve.clocked_j * law.voltage_factor(mhz) / law.voltage_factor(self.cap.clock_mhz),
        )
