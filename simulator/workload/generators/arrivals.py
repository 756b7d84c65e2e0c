"""When requests arrive: Poisson, Gamma-renewal, constant-rate and all-at-once arrival processes.

A renewal process of rate lambda draws independent gaps of mean 1/lambda; Gamma gaps have shape 1/cv^2, so cv = 1 is
Poisson, cv > 1 burstier, cv -> 0 regular (`vllm bench serve --burstiness` is 1/cv^2).
"""

import math
import zlib
from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from simulator.workload.columns import MOST_REQUESTS

MOST_STREAMED: Final = 1_000_000_000  # a day or two of simulating; more is a slip of the pen
LARGEST_SEED: Final = 2**32 - 1  # what numpy's legacy generator takes
ArrivalName = Literal["poisson", "gamma", "constant", "burst"]


def random_stream(seed: int, name: str) -> "np.random.Generator":
    """Return the stream called ``name`` under ``seed``; streams of different names are independent."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed is {shown(seed)}, must be 0 to {LARGEST_SEED}")
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))


def generate_arrivals(
    count: int, *, process: ArrivalName = "poisson", rate_per_s: float = 1.0, cv: float = 1.0, seed: int = 0
) -> NDArray[np.float64]:
    """Return ``count`` ascending arrivals in seconds, the first after one gap (``burst``: all at 0)."""
    if not 1 <= count <= MOST_REQUESTS:
        must = ">= 1" if count < 1 else f"<= {MOST_REQUESTS}"
        raise UserError(f"number of requests is {shown(count)}, must be {must}")
    return next(iter_arrivals(count, count, process=process, rate_per_s=rate_per_s, cv=cv, seed=seed))


def iter_arrivals(
    count: int, part: int, *, process: ArrivalName, rate_per_s: float, cv: float, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Yield the same ``count`` arrivals in parts of at most ``part``."""
    if not 1 <= count <= MOST_STREAMED:
        must = ">= 1" if count < 1 else f"<= {MOST_STREAMED}"
        raise UserError(f"number of requests is {shown(count)}, must be {must}")
    if process != "burst" and not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise UserError(f"rate is {rate_per_s:g} requests/s, must be a positive number")
    if process != "burst" and not (math.isfinite(cv) and cv > 0):
        raise UserError(f"cv of the gaps is {cv:g}, must be a positive number", hint="for regular gaps use constant")
    stream = random_stream(seed, "arrivals")
    last_s = 0.0
    for first in range(0, count, part):
        size = min(part, count - first)
        if process == "burst":
            yield np.zeros(size)
        elif process == "constant":
            yield np.arange(first + 1, first + size + 1) / rate_per_s
        else:
            gaps = _gaps(stream, size, process=process, rate_per_s=rate_per_s, cv=cv)
            gaps[0] += last_s
            arrival_s = np.cumsum(gaps)
            last_s = float(arrival_s[-1])
            yield arrival_s


def _gaps(
    stream: "np.random.Generator", count: int, *, process: ArrivalName, rate_per_s: float, cv: float
) -> NDArray[np.float64]:
    if process == "poisson":
        return stream.exponential(1 / rate_per_s, size=count)
    if process == "gamma":
        shape = 1 / cv**2
        return stream.gamma(shape, 1 / (rate_per_s * shape), size=count)
    raise UserError(f"arrival process {process!r} is not known", hint="choose one of poisson, gamma, constant, burst")
