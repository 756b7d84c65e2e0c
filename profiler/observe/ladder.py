"""The loads a server is put under, in order: one request alone, then doubling up to the stated limit and no further."""

from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass

_MOST_RATES: Final = 6
_MOST_CONCURRENCY: Final = 1_024  # open files of one process end there
_MOST_RATE_PER_S: Final = 1_000.0
_LEAST_ARRIVALS: Final = 10  # of the slowest rate; fewer tell nothing of a queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A closed loop of ``concurrency`` requests, or Poisson arrivals at ``rate_per_s``: one of the two."""

    concurrency: int | None = None
    rate_per_s: float | None = None

    def __str__(self) -> str:
        if self.rate_per_s is not None:
            return f"{self.rate_per_s:g} requests/s"
        return "one alone" if self.concurrency == 1 else f"concurrency {self.concurrency}"


def ladder(max_rate_per_s: float | None, max_concurrency: int | None, duration_s: float) -> list[Rung]:
    """Return the loads up to whichever limit is stated; raises ``UserError`` unless it is exactly one, in range."""
    if (max_rate_per_s is None) == (max_concurrency is None):
        raise UserError(
            "state either --max-rate or --max-concurrency: the load that this server may bear",
            hint="for example --max-concurrency 16",
        )
    if max_concurrency is not None:
        if not 1 <= max_concurrency <= _MOST_CONCURRENCY:
            raise UserError(f"--max-concurrency is {max_concurrency}, must be from 1 to {_MOST_CONCURRENCY}")
        return closed_ladder(max_concurrency)
    assert max_rate_per_s is not None
    if not 0 < max_rate_per_s <= _MOST_RATE_PER_S:
        raise UserError(f"--max-rate is {max_rate_per_s:g}, must be over 0 and at most {_MOST_RATE_PER_S:g} requests/s")
    return open_ladder(max_rate_per_s, duration_s)


def closed_ladder(most: int) -> list[Rung]:
    """Concurrencies 1, 2, 4, ... and ``most`` itself."""
    steps = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [Rung(concurrency=step) for step in (*steps, most)]


def open_ladder(most_per_s: float, duration_s: float) -> list[Rung]:
    """One request alone, then rates that double up to ``most_per_s``; as many as leave ten arrivals to the slowest.

    Raises ``UserError`` where not even ``most_per_s`` sends ten in its share of the time.
    """
    for count in range(_MOST_RATES, 0, -1):
        slowest_per_s = most_per_s / 2 ** (count - 1)
        if slowest_per_s * duration_s / (count + 1) >= _LEAST_ARRIVALS:
            rates = [most_per_s / 2**power for power in range(count - 1, -1, -1)]
            return [Rung(concurrency=1), *(Rung(rate_per_s=rate) for rate in rates)]
    raise UserError(
        f"--max-rate {most_per_s:g} sends {most_per_s * duration_s / 2:.1f} requests in half of --duration "
        f"{duration_s:g}s, must be at least {_LEAST_ARRIVALS}",
        hint=f"--duration {2 * _LEAST_ARRIVALS / most_per_s:.0f}s, or a closed loop: --max-concurrency",
    )
