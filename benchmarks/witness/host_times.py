"""The engine's own time on this CPU, read from servers of models so narrow that next to nothing is computed.

A request alone with few and with many tokens of answer, and B of those with many at a time, take

    e2e = kernels + frontend + tokens (step + sequences x sequence)

beyond what the kernels are predicted to take, which says the three. A CPU has no device beside which the host could
work: all of it adds up. Whole requests are looked at because tokens that are made faster than they can be sent arrive
together.

The step is then read once more, between weights that pass through the caches: code and tables of the interpreter come
from memory again after every product, and the host's part of a step takes twice as long.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.witness.workloads import BLOCK_TOKENS
from cluster_specs.files.toml_text import InlineTable, toml_text

_NOISE_FRAC: Final = 0.15  # half width stated for each: what such runs differ by when they are repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTimes:
    """Seconds of the engine's own code: once per step, per sequence and step, and per request."""

    step_s: float = 0.0
    sequence_s: float = 0.0
    frontend_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRun:
    """Requests of a narrow model: so many at a time, tokens of an answer, and seconds beyond the kernels'."""

    sequences: int
    tokens: int
    beyond_s: float


def host_times(few: HostRun, many: HostRun, together: HostRun, wide: HostRun) -> HostTimes:
    """Solve for the three; ``few``, ``many`` and ``wide`` are of requests alone, ``together`` of several at a time."""
    token_s = max((many.beyond_s - few.beyond_s) / (many.tokens - few.tokens), 0.0)
    frontend_s = max(few.beyond_s - few.tokens * token_s, 0.0)
    together_s = (together.beyond_s - frontend_s) / together.tokens
    sequence_s = min(max((together_s - token_s) / (together.sequences - 1), 0.0), token_s)
    cold_s = max((wide.beyond_s - frontend_s) / wide.tokens, token_s)
    return HostTimes(step_s=cold_s - sequence_s, sequence_s=sequence_s, frontend_s=frontend_s)


def write_profile(path: Path, name: str, version: str, times: HostTimes, source: str) -> None:
    """Write the engine profile of vLLM on this CPU, with ``times`` as its host times; ``source`` says where from."""
    learnt = {"step_s": times.step_s, "sequence_s": times.sequence_s, "frontend_s": times.frontend_s}
    host: dict[str, object] = {
        key: InlineTable(value=float(f"{value:.3g}"), error=float(f"{_NOISE_FRAC * value:.2g}"))
        for key, value in learnt.items()
    }
    host |= {"serial_step_s": 0.0, "serial_sequence_s": 0.0, "all_reduce_s": 0.0, "launch_s": 0.0}
    host["source"] = f"{source}; calls of Python are inside what the kernels were measured to take"
    values = {
        "schema": 1,
        "name": name,
        "extends": "vllm-0.33",
        "version": version,
        "block_size": BLOCK_TOKENS,
        "async_scheduling": False,
        "source": "vllm/platforms/cpu.py: blocks of 128 tokens, nothing is scheduled ahead",
        "expert_routing": {"skew": "power_law_0.0", "source": "a router of random weights prefers no expert"},
        "host": host,
    }
    path.write_text(toml_text(values))
