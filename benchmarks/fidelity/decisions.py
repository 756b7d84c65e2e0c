"""How well predictions decide: which replica size, and which plan under a limit on TPOT.

Distinct settings only (repeats averaged). Tokens per second and device are the output tokens of ``concurrency``
requests over the time one takes. *Replica size*: settings of one server, lengths and concurrency per device that
differ in layout form a group; the pick is the layout with the best predicted rate. *Under a limit*: for each server
and lengths and each limit, all layouts and concurrencies are candidates; the pick has the best predicted rate of those
predicted within the limit, and breaks it where its measured TPOT is more than 5 % above. Regret is 1 - measured rate of
the pick / best measured rate (within the limit).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.fidelity.replay import Point
from simulator.calibration.evidence import TPOT, TTFT

TPOT_LIMITS_S: Final = (0.010, 0.015, 0.020, 0.030, 0.040, 0.060)
_TOLERANCE: Final = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One distinct setting: its measured means, and a tool's predicted ones."""

    server: str
    lengths: tuple[int, int]
    plan: str
    devices: int
    concurrency: int
    measured: tuple[float, float]  # TTFT and TPOT in s
    predicted: tuple[float, float]

    def rate(self, times: tuple[float, float]) -> float:
        """Return output tokens per second and device, were TTFT and TPOT these."""
        ttft_s, tpot_s = times
        tokens = self.lengths[1]
        return self.concurrency * tokens / (ttft_s + (tokens - 1) * tpot_s) / self.devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Means over picks: regret of replica sizes; share of picks that break a limit, and regret of the others."""

    sizes: int
    size_regret: float
    picks: int
    broken: float
    regret: float


def distinct(points: Sequence[Point], predict: Callable[[Point, str], float]) -> list[Setting]:
    """Average the repeats of each setting; settings that ``predict`` has no figure of are left out."""
    repeats: dict[object, list[Point]] = defaultdict(list)
    for point in points:
        repeats[point.row.setting].append(point)
    found = []
    for same in repeats.values():
        means = [
            float(np.mean([value(point, path) for point in same]))
            for value in (lambda point, path: point.row.measured(path), predict)
            for path in (TTFT, TPOT)
        ]
        server, plan, prompt, answer, concurrency = same[0].row.setting
        if np.isfinite(means).all():
            found.append(
                Setting(
                    server=server,
                    lengths=(prompt, answer),
                    plan=plan,
                    devices=same[0].row.devices,
                    concurrency=concurrency,
                    measured=(means[0], means[1]),
                    predicted=(means[2], means[3]),
                )
            )
    return found


def quality(settings: Sequence[Setting]) -> Quality:
    """Judge the picks among ``settings``."""
    sizes = [_regret(group, group) for group in _sizes(settings)]
    broken, regrets = 0, []
    for candidates in _alike(settings, lambda item: (item.server, item.lengths)):
        for limit in TPOT_LIMITS_S:
            within = [item for item in candidates if item.predicted[1] <= limit]
            allowed = [item for item in candidates if item.measured[1] <= limit]
            if not within or not allowed:
                continue
            pick = max(within, key=lambda item: item.rate(item.predicted))
            if pick.measured[1] > _TOLERANCE * limit:
                broken += 1
            else:
                regrets.append(max(0.0, _regret([pick], allowed)))
    picks = broken + len(regrets)
    return Quality(
        sizes=len(sizes),
        size_regret=float(np.mean(sizes)) if sizes else float("nan"),
        picks=picks,
        broken=broken / picks if picks else float("nan"),
        regret=float(np.mean(regrets)) if regrets else float("nan"),
    )


def _sizes(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Return groups of different layouts at the same concurrency per device."""
    groups = _alike(settings, lambda item: (item.server, item.lengths, item.concurrency / item.devices))
    return [group for group in groups if len({item.plan for item in group}) > 1]


def _alike(settings: Sequence[Setting], key: Callable[[Setting], object]) -> list[list[Setting]]:
    groups: dict[object, list[Setting]] = defaultdict(list)
    for item in settings:
        groups[key(item)].append(item)
    return list(groups.values())


def _regret(candidates: Sequence[Setting], among: Sequence[Setting]) -> float:
    pick = max(candidates, key=lambda item: item.rate(item.predicted))
    return 1.0 - pick.rate(pick.measured) / max(item.rate(item.measured) for item in among)
