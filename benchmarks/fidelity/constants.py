"""The constants of engine profiles that are estimated from measured servers, and what is known of each without them.

A constant is one number per engine, shared by all of its versions, or one for all engines where it describes what they
have in common: the client, the host's launches, the device under sustained load.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.fidelity.rows import ENGINES

_ALL: Final = tuple(ENGINES)
LEAST_SERVERS: Final = 3  # fewer than so many identify no constant: it keeps its source's value


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A number at ``key`` of the profiles of ``engines``; ``prior`` and its standard deviation are its source's."""

    key: str
    engines: tuple[str, ...]
    prior: float
    prior_error: float
    source: str

    @property
    def name(self) -> str:
        """The key, and whose it is where it is not everybody's."""
        return self.key if self.engines == _ALL else f"{self.key} of {', '.join(self.engines)}"


_HOST: Final = (
    ("host.step_s", 1.5e-3, 1e-3, "an order of magnitude: scheduling and inputs of one step take 1 to 3 ms of Python"),
    ("host.sequence_s", 30e-6, 15e-6, "beside the device: 21 us in logs of vLLM 0.15, 40 to 57 of servers that wait"),
    ("host.serial_step_s", 0.0, 0.2e-3, "from one step's last kernel to the next one's first: nothing is known"),
    ("host.serial_sequence_s", 5e-6, 5e-6, "from sampled tokens to the next inputs: up to 14 us of vLLM 0.10"),
    ("host.frontend_s", 6e-3, 6e-3, "client and HTTP: milliseconds"),
    (
        "host.launch_s",
        45e-6,
        15e-6,
        "eager steps of Llama-2-70B: 30 us per op on H100, 45 on A100; other hosts 40 to 60",
    ),
)
CONSTANTS: Final = (
    *(
        Constant(key=key, engines=(engine,), prior=prior, prior_error=error, source=source)
        for engine in _ALL
        for key, prior, error, source in _HOST
    ),
    Constant(
        key="host.frontend_token_s",
        engines=_ALL,
        prior=1.5e-6,
        prior_error=1.5e-6,
        source="Hugging Face tokenizers: 1 to 4 MiB of English per second",
    ),
    Constant(
        key="sustained_load.slowdown_frac",
        engines=_ALL,
        prior=0.10,
        prior_error=0.10,
        source="boost clock over the clock at the power cap: 1.0 to 1.2",
    ),
)


def shifts(constants: tuple[Constant, ...], moves: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return ``moves`` (by a constant's name, in its unit) as shifts by engine and key."""
    found: dict[str, dict[str, float]] = {}
    for constant in constants:
        if moves.get(constant.name):
            for engine in constant.engines:
                found.setdefault(engine, {})[constant.key] = moves[constant.name]
    return found
