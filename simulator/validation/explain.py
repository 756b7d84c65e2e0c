"""Which parts of a server explain a difference, how surely, and which of them the runs cannot tell apart.

Given are, for every observation i, y[i] = log(measured / predicted), and for every part the response r[i](x) of
log(predicted) to a change of that part by x. ``whitening`` W turns either into standard deviations of what means
nothing, independent of each other (`simulator.validation.observations`). A set of parts with sizes x costs

    chi2 = |W (y - sum over parts of r(x))|^2 + sum over parts of (x / prior)^2

where the prior is a size that would not surprise: a part that must be thrice as slow is a worse explanation than one
that must be a tenth slower. A part is taken where it lowers chi2 by 9, three standard deviations; a part that could
stand in for one taken at a cost below 4, two standard deviations, cannot be told from it. Where the best set leaves
more than the noise, both thresholds grow by that excess.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass

Array = NDArray[np.float64]

_WORTH_ANOTHER: Final = 9.0
_TOLD_APART: Final = 4.0
_MOST_PARTS: Final = 3
_SWEEPS: Final = 40
_NEWTON_STEPS: Final = 8
_RESTS: Final = 1e-5  # of a prior: a size that moves by less has come to rest
_LEAST_LEFT: Final = 0.02  # of a prediction: seconds cannot be taken away further than that
_ACTS: Final = 0.25  # of the noise: a part that moves no observation by so much at its prior's size says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """How predictions [n] move with a part's size x, below and above 0, and which sizes there can be.

    Factors move log(predicted) by ``slope`` x; seconds that are added move predicted by ``slope`` x of itself.
    """

    down: Array
    up: Array
    is_factor: bool
    prior: float
    lowest: float = -math.inf
    highest: float = math.inf

    def through(self, moved: Array, size: float) -> "Response":
        """Return the response that goes through a change of log(predicted) at a size, on that side of 0."""
        slope = (moved if self.is_factor else np.expm1(moved)) / size
        return replace(self, up=slope) if size > 0 else replace(self, down=slope)

    @classmethod
    def of(cls, moved_down: Array, moved_up: Array, steps: tuple[float, float], **limits: Any) -> "Response":
        """Return the response that changes of log(predicted) at two steps show: one below 0, or 0 for none, one above.

        ``limits`` are the other fields.
        """
        is_factor = limits["is_factor"]
        slopes = [
            (moved if is_factor else np.expm1(moved)) / step if step else 0.0 * moved
            for moved, step in zip((moved_down, moved_up), steps, strict=True)
        ]
        return cls(down=slopes[0], up=slopes[1], **limits)

    def at(self, size: float) -> Array:
        """Return the movement of log(predicted) [n] at a size."""
        moved = size * (self.up if size >= 0 else self.down)
        return moved if self.is_factor else np.log1p(np.maximum(moved, _LEAST_LEFT - 1.0))

    def slope_at(self, size: float, *, is_up: bool) -> Array:
        """Return the movement per size there, on one side of 0."""
        slope = self.up if is_up else self.down
        return slope if self.is_factor else slope / np.maximum(1.0 + size * slope, _LEAST_LEFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A part that was taken: its size with one standard deviation, and what else could stand in for it."""

    name: str
    size: float
    error: float
    rivals: tuple[str, ...]  # the nearest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The parts taken, the share of chi2 that they explain, and what each part could explain alone."""

    parts: tuple[Explained, ...]
    share: float  # 0 to 1
    alone: Mapping[str, float]  # the share that a part explains alone, largest first
    sizes: Mapping[str, float]  # its size where it is taken, else its size alone
    is_within_noise: bool  # there is nothing to explain
    is_little: bool = False  # chi2 is so small that no part could be taken for sure


def explain(y: Array, whitening: Array, responses: Mapping[str, Response]) -> Explanation:
    """Explain observations [n] by as few parts as do."""
    problem = _Problem(y=y, whitening=whitening, responses=responses)
    off = whitening @ y
    nothing = float((off**2).sum())
    acting = [name for name, one in responses.items() if problem.acts(one)]
    fits = {name: problem.best((name,)) for name in acting}
    alone = {name: max(0.0, 1.0 - one.misfit / nothing) if nothing else 0.0 for name, one in fits.items()}
    ordered = dict(sorted(alone.items(), key=lambda item: -item[1]))
    sizes = {name: one.sizes[name] for name, one in fits.items()}
    # Each observation within two of its standard deviations, and all together within what chance leaves.
    if nothing <= len(y) + 2.0 * math.sqrt(2.0 * len(y)) and float(np.abs(off).max(initial=0.0)) <= 2.0:
        return Explanation(parts=(), share=0.0, alone=ordered, sizes=sizes, is_within_noise=True)
    found = problem.fewest(acting)
    parts = tuple(
        Explained(
            name=name,
            size=found.sizes[name],
            error=problem.error(name, found),
            rivals=problem.rivals(name, found, acting),
        )
        for name in found.names
    )
    share = max(0.0, 1.0 - found.misfit / nothing)
    return Explanation(
        parts=parts,
        share=share,
        alone=ordered,
        sizes=sizes | dict(found.sizes),
        is_within_noise=False,
        is_little=nothing < 2 * _WORTH_ANOTHER,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    names: tuple[str, ...]
    sizes: Mapping[str, float]
    misfit: float  # chi2 without the priors
    chi2: float
    excess: float  # misfit per degree of freedom, 1 at least


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    y: Array
    whitening: Array
    responses: Mapping[str, Response]

    def acts(self, one: Response) -> bool:
        """Whether a part of its prior's size moves what is observed by more than nothing."""
        moved = np.abs(np.stack([self.whitening @ one.up, self.whitening @ one.down])) * one.prior
        return float(moved.max(initial=0.0)) >= _ACTS

    def fewest(self, acting: Sequence[str]) -> _Fit:
        """Take one part after the other while each lowers chi2; leave out those that what is left makes doubtful."""
        found = self.best(())
        while len(found.names) < _MOST_PARTS:
            tried = [self.best((*found.names, name)) for name in acting if name not in found.names]
            best = min(tried, key=lambda one: one.chi2, default=None)
            if best is None or found.chi2 - best.chi2 < _WORTH_ANOTHER:
                break
            found = best
        while found.names:
            without = [self.best(tuple(other for other in found.names if other != name)) for name in found.names]
            least = min(without, key=lambda one: one.chi2)
            if least.chi2 - found.chi2 >= _WORTH_ANOTHER * found.excess:
                break
            found = least
        return found

    def best(self, names: tuple[str, ...]) -> _Fit:
        """Fit the sizes of some parts, one after the other until they rest."""
        sizes = dict.fromkeys(names, 0.0)
        left = self.whitening @ self.y
        for _ in range(_SWEEPS if len(names) > 1 else 1):
            moved = 0.0
            for name in names:
                one = self.responses[name]
                left = left + self.whitening @ one.at(sizes[name])
                size = self._one(one, left)
                moved = max(moved, abs(size - sizes[name]) / one.prior)
                sizes[name] = size
                left = left - self.whitening @ one.at(size)
            if moved < _RESTS:
                break
        misfit = float((left**2).sum())
        costs = sum((sizes[name] / self.responses[name].prior) ** 2 for name in names)
        freedom = len(self.y) - len(names)
        excess = max(1.0, misfit / freedom) if freedom >= 3 else 1.0
        return _Fit(names=names, sizes=sizes, misfit=misfit, chi2=misfit + costs, excess=excess)

    def _one(self, one: Response, left: Array) -> float:
        """Return the size of one part that costs least: the better of the best ones on either side of 0."""
        best, least = 0.0, float((left**2).sum())
        for is_up, lowest, highest in ((True, 0.0, one.highest), (False, one.lowest, 0.0)):
            size = 0.0
            for _ in range(_NEWTON_STEPS):
                slopes = self.whitening @ one.slope_at(size, is_up=is_up)
                off = left - self.whitening @ one.at(size)
                curvature = float((slopes**2).sum()) + one.prior**-2
                moved = (float(slopes @ off) - size / one.prior**2) / curvature
                size, before = min(highest, max(lowest, size + moved)), size
                if abs(size - before) < _RESTS * one.prior:
                    break
            cost = float(((left - self.whitening @ one.at(size)) ** 2).sum()) + (size / one.prior) ** 2
            if cost < least:
                best, least = size, cost
        return best

    def error(self, name: str, found: _Fit) -> float:
        """Return one standard deviation of a size, with the other parts of the set free."""
        slopes = np.stack(
            [
                self.whitening @ self.responses[other].slope_at(size, is_up=size >= 0)
                for other, size in found.sizes.items()
            ],
            axis=1,
        )
        priors = np.diag([self.responses[other].prior ** -2 for other in found.names])
        covariance = np.linalg.inv(slopes.T @ slopes / found.excess + priors)
        return math.sqrt(covariance[found.names.index(name), found.names.index(name)])

    def rivals(self, name: str, found: _Fit, acting: Sequence[str]) -> tuple[str, ...]:
        """Return the parts that could stand in for one of a set, the nearest first."""
        kept = tuple(other for other in found.names if other != name)
        costs = {other: self.best((*kept, other)).chi2 - found.chi2 for other in acting if other not in found.names}
        close = {other: cost for other, cost in costs.items() if cost < _TOLD_APART * found.excess}
        return tuple(sorted(close, key=close.__getitem__))
