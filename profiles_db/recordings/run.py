"""One served run as a benchmark client recorded it, whichever client that was."""

from collections.abc import Sequence
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.recordings.server_facts import ServerFacts
from profiles_db.recordings.stated_server import StatedServer
from profiles_db.recordings.summary import ClientSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """``n`` requests in the file's order; times are seconds of the client's clock, NaN where it measured none."""

    tool: str
    place: str  # the file, with the line of an appended result
    prompt_tokens: NDArray[np.int64]  # [n]
    output_tokens: NDArray[np.int64]  # [n]
    is_ok: NDArray[np.bool_]  # [n]
    start_s: NDArray[np.float64] | None  # [n] from the earliest; None in files without
    due_s: NDArray[np.float64] | None = None  # [n] when the load asked for it, from the earliest start
    ttft_s: NDArray[np.float64]  # [n]
    e2e_s: NDArray[np.float64]  # [n]
    gaps_s: Sequence[NDArray[np.float64]] | None = None  # [n] of each request, between the parts of its answer
    errors: Sequence[str | None] = ()
    rate_per_s: float | None = None  # what the client aimed at; inf: all at once; None: not said
    max_concurrency: int | None = None
    states_load: bool = True  # whether rate and concurrency are in the file at all
    notes: tuple[str, ...] = ()
    summary: ClientSummary = field(default_factory=ClientSummary)
    stated: StatedServer = field(default_factory=StatedServer)
    server: ServerFacts = field(default_factory=ServerFacts)

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @property
    def chunks(self) -> NDArray[np.int64] | None:
        """Parts that each answer came in [n]; None where the client kept no times of them."""
        return None if self.gaps_s is None else np.array([len(gaps) + 1 for gaps in self.gaps_s], dtype=np.int64)

    @property
    def is_closed_loop(self) -> bool:
        """Whether the next request waited for an answer: a concurrency, and no rate besides."""
        return self.max_concurrency is not None and self.rate_per_s in {None, float("inf")}


def choose(runs: Sequence[RecordedRun], number: int | None, path: object) -> RecordedRun:
    """Return run ``number`` (from 1) of a file; UserError lists them where it is needed and not given, or too large."""
    if number is not None and not 1 <= number <= len(runs):
        raise UserError(f"{path}: result {number} was asked for, the file holds {len(runs)}")
    if number is None and len(runs) > 1:
        shown = "; ".join(f"{index}: {_described(run)}" for index, run in enumerate(runs[:8], start=1))
        raise UserError(
            f"{path}: holds {len(runs)} results ({shown}{'; ...' if len(runs) > 8 else ''})",
            hint="choose one: --result N",
        )
    return runs[(number or 1) - 1]


def _described(run: RecordedRun) -> str:
    rate = "" if run.rate_per_s is None else f", {run.rate_per_s:g} requests/s"
    concurrency = "" if run.max_concurrency is None else f", concurrency {run.max_concurrency}"
    return f"{len(run)} requests{rate}{concurrency}"


def from_earliest(times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return times counted from the earliest one that is known."""
    return times_s - np.nanmin(times_s) if np.isfinite(times_s).any() else times_s
