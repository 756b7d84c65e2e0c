"""When requests arrive: Poisson, Gamma-renewal, constant-rate and all-at-once arrival processes.

A renewal process of rate lambda draws independent gaps of mean 1/lambda; Gamma gaps have shape 1/cv^2, so cv = 1 is
Poisson, cv > 1 burstier, cv -> 0 regular (`vllm bench serve --burstiness` is 1/cv^2).
"""

import math
import zlib
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from simulator.workload.columns import MOST_REQUESTS

LARGEST_SEED: Final = 2**32 - 1  # what numpy's legacy generator takes
ArrivalName = Literal["poisson", "gamma", "constant", "burst"]


def random_stream(seed: int, name: str) -> np.random.Generator:
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
    if process == "burst":
        return np.zeros(count)
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise UserError(f"rate is {rate_per_s:g} requests/s, must be a positive number")
    if not (math.isfinite(cv) and cv > 0):
        raise UserError(f"cv of the gaps is {cv:g}, must be a positive number", hint="for regular gaps use constant")
    if process == "constant":
        return np.arange(1, count + 1) / rate_per_s
    stream = random_stream(seed, "arrivals")
    if process == "poisson":
        return np.cumsum(stream.exponential(1 / rate_per_s, size=count))
    if process == "gamma":
        shape = 1 / cv**2
        return np.cumsum(stream.gamma(shape, 1 / (rate_per_s * shape), size=count))
    raise UserError(f"arrival process {process!r} is not known", hint="choose one of poisson, gamma, constant, burst")
