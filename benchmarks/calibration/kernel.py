"""The kernel of factors by load, learnt from servers: the one with which runs predict the others best.

A server is linear here: residuals of all its settings, slopes of its constants, and what a factor on either step of a
setting does to it. For each kernel of a grid, random runs predict all other settings as Gaussian processes do; a server
counts once. What a server is scored with was learnt without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from benchmarks.calibration.measured_server import METRICS, MeasuredServer
from simulator.calibration.estimate import slopes_at
from simulator.calibration.evidence import TTFT, Array, covariance
from simulator.calibration.load_points import LoadKernel, points_of
from simulator.engine_profiles.load_factors import LoadFactors, nearness

_SD: Final = (0.02, 0.03, 0.045, 0.06, 0.08, 0.11)
_OCTAVES: Final = (0.6, 0.84, 1.2, 1.7, 2.4)
KERNELS: Final = tuple(
    LoadKernel(sd=sd, tokens_octaves=tokens, ranks_octaves=ranks)
    for sd, tokens, ranks in product(_SD, _OCTAVES, _OCTAVES)
)
_BUMP: Final = 0.05  # of the factor's logarithm, an octave wide
_WEIGHTS: Final = {TTFT: 1 / 0.05}  # an error in deviations of a run, as evidence counts it
_OTHER_WEIGHT: Final = 1 / 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearServer:
    """A server's settings as numbers alone: what is predicted, and how it changes."""

    name: str
    plans: tuple[str, ...]
    middle: Array  # [settings, metrics], logarithms
    log_measured: tuple[Array, ...]  # by setting: [repeats, metrics]
    slopes: Array  # [settings, metrics, constants]
    loads: Array  # [settings, metrics, 2]: by a factor on the step that decodes, and on the one with a prompt
    log2_tokens: Array  # [settings, 2] of those steps
    log2_ranks: Array  # [settings]
    draws: tuple[tuple[int, ...], ...]

    def error(self, kernel: LoadKernel) -> float:
        """Return the mean error of settings that were not drawn, each metric in deviations of a run."""
        signal = self._signal(kernel)
        names = np.tile(np.array(METRICS), len(self.plans))
        whole = signal + covariance(np.repeat(np.array(self.plans), len(METRICS)), names)
        first = np.concatenate([values[0] for values in self.log_measured])
        residuals = self.middle.ravel() - first
        return float(np.mean([self._error(draw, signal, whole, residuals) for draw in self.draws]))

    def _error(self, draw: Sequence[int], signal: Array, whole: Array, residuals: Array) -> float:
        places = np.concatenate([np.arange(len(METRICS)) + len(METRICS) * place for place in draw])
        known = np.linalg.solve(whole[np.ix_(places, places)], residuals[places])
        predicted = self.middle - (signal[:, places] @ known).reshape(self.middle.shape)
        left = [np.exp(predicted[place] - values) - 1 for place, values in enumerate(self.log_measured)]
        own = np.abs(np.concatenate([errors for place, errors in enumerate(left) if place not in draw])).mean(axis=0)
        return float(own @ [_WEIGHTS.get(metric, _OTHER_WEIGHT) for metric in METRICS])

    def _signal(self, kernel: LoadKernel) -> Array:
        """Return the covariance that constants and factors by load give all numbers."""
        flat = self.slopes.reshape(-1, self.slopes.shape[2])
        found = flat @ flat.T
        ranks = self.log2_ranks[:, None] - self.log2_ranks[None, :]
        for one, other in product(range(2), repeat=2):
            tokens = self.log2_tokens[:, one, None] - self.log2_tokens[None, :, other]
            near = nearness(tokens, ranks, kernel.tokens_octaves, kernel.ranks_octaves)
            joined = np.repeat(np.repeat(near, len(METRICS), 0), len(METRICS), 1)
            found = found + kernel.sd**2 * joined * np.outer(self.loads[:, :, one], self.loads[:, :, other])
        return np.asarray(found)


def linear_server(server: MeasuredServer, draws: Sequence[Sequence[int]]) -> LinearServer:
    """Replay every setting of a server as it is, with each constant moved, and with a factor on its steps."""
    count = len(server.runs)
    everything = server.replays(range(count))
    zero = np.zeros(len(server.unknowns))
    middle = everything(zero)
    slopes = slopes_at(everything, zero, middle, range(len(zero)))
    shape = (count, len(METRICS))
    loads, tokens, ranks = np.zeros((*shape, 2)), np.zeros((count, 2)), np.zeros(count)
    for place in range(count):
        for which, point in enumerate(points_of(everything, place)):
            alone = server.replays([place], everything)
            bump = LoadFactors(points=[point.model_copy(update={"weight": _BUMP})], source="a trial")
            alone.profile = server.profile.model_copy(update={"load_factors": bump})
            loads[place, :, which] = (alone(zero) - middle.reshape(shape)[place]) / _BUMP
            tokens[place, which], ranks[place] = np.log2(point.tokens), np.log2(point.ranks)
    return LinearServer(
        name=server.name,
        plans=tuple(server.plans.tolist()),
        middle=middle.reshape(shape),
        log_measured=tuple(np.log(values) for values in server.measured),
        slopes=slopes.reshape(*shape, -1),
        loads=np.nan_to_num(loads),
        log2_tokens=tokens,
        log2_ranks=ranks,
        draws=tuple(tuple(draw) for draw in draws),
    )


def learn(errors: Array, without: int | None = None) -> LoadKernel:
    """Return the kernel with the least mean of ``errors`` [servers, kernels], each in that of its server's best."""
    own = np.delete(errors, without, axis=0) if without is not None else errors
    return KERNELS[int(np.argmin((own / own.min(axis=1, keepdims=True)).mean(axis=0)))]
