"""What a replica did, taken at its mean steps: the way from the engine's sums back to the ops of the compiled plan.

The engine counts tokens, rows, KV reads and pairs, not ops. A quantity of an op over the whole run is its value at the
mean decode-only step and at the mean step with prefill, times their numbers: exact for what is linear in those counts,
which FLOPs and bytes of dense models are.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from simulator.engine.result import ReplicaTotals
from simulator.steps.compiled_plan import StageSums
from simulator.steps.step_knots import TableKnots
from simulator.steps.step_sum import StepSum

Quantity = Callable[[StepSum], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """What one replica did, summed over its steps."""

    steps: int
    decode_steps: int
    tokens: int
    decode_tokens: int
    drafts: int  # of the decode tokens
    rows: int
    decode_kv: int
    pairs: int
    prefill_kv: int

    @classmethod
    def of_replica(cls, totals: ReplicaTotals, replica: int) -> "StepCounts":
        """Read the counts of one replica."""
        return cls(
            steps=int(totals.steps[replica]),
            decode_steps=int(totals.decode_steps[replica]),
            tokens=int(totals.prefill_tokens[replica] + totals.decode_tokens[replica]),
            decode_tokens=int(totals.decode_tokens[replica]),
            drafts=int(totals.draft_tokens[replica]),
            rows=int(totals.sampled_rows[replica]),
            decode_kv=int(totals.decode_kv_reads[replica]),
            pairs=int(totals.prefill_pairs[replica]),
            prefill_kv=int(totals.prefill_kv_reads[replica]),
        )

    @classmethod
    def of_all(cls, totals: ReplicaTotals) -> "StepCounts":
        """Add up the counts of all replicas."""
        return sum((cls.of_replica(totals, replica) for replica in range(1, totals.dp)), cls.of_replica(totals, 0))

    def __add__(self, other: "StepCounts") -> "StepCounts":
        """Add count by count."""
        return StepCounts(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    @property
    def sequences(self) -> int:
        """Sequences in the steps, prefills included."""
        return self.rows - self.drafts

    @property
    def cached_kv(self) -> int:
        """KV tokens of prefill chunks that were cached before their step."""
        return self.prefill_kv - (self.tokens - self.decode_tokens)

    @property
    def mixed_steps(self) -> int:
        """Steps with prefill."""
        return self.steps - self.decode_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTotals:
    """One quantity over all steps of one stage, by the table its ops are in."""

    tokens: float
    samples: float
    sends: float
    decode: float
    prefill: float
    reads: float  # KV read for prefill; a step waits for this or for ``prefill``, whichever is slower
    context: float  # expanding cached latent KV for prefill

    def __add__(self, other: "StageTotals") -> "StageTotals":
        """Add table by table."""
        return StageTotals(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    @property
    def work(self) -> float:
        """All that is done: prefill attention counts its own KV reads."""
        return self.tokens + self.samples + self.sends + self.decode + self.prefill + self.context


def stage_totals(stage: StageSums, knots: TableKnots, counts: StepCounts, quantity: Quantity) -> StageTotals:
    """Sum ``quantity`` over all steps of one rank of ``stage``."""
    steps, mixed = max(1, counts.steps), max(1, counts.mixed_steps)
    decoding = counts.decode_tokens / steps
    batch = (counts.decode_tokens - counts.drafts) / steps
    mixed_tokens = (counts.tokens - decoding * counts.decode_steps) / mixed
    tokens = quantity(stage.tokens)
    alone = tokens if stage.decode_tokens is None else quantity(stage.decode_tokens)
    row = int(np.clip(np.searchsorted(knots.batch, batch), 0, len(knots.batch) - 1))
    decode = 0.0
    for table in (stage.decode, stage.windowed):
        at_batch = quantity(table).reshape(len(knots.batch), len(knots.kv))[row]
        decode += counts.steps * _at(at_batch, knots.kv, counts.decode_kv / steps)
    return StageTotals(
        tokens=counts.decode_steps * _at(alone, knots.tokens, decoding)
        + counts.mixed_steps * _at(tokens + quantity(stage.scans), knots.tokens, mixed_tokens),
        samples=counts.steps * _at(quantity(stage.samples), knots.rows, counts.rows / steps),
        sends=counts.steps * _at(quantity(stage.sends), knots.tokens, counts.tokens / steps),
        decode=decode,
        prefill=counts.mixed_steps * _at(quantity(stage.prefill), knots.pairs, counts.pairs / mixed),
        reads=counts.mixed_steps * _at(quantity(stage.reads), knots.reads, counts.prefill_kv / mixed),
        context=counts.mixed_steps * _at(quantity(stage.context), knots.reads, counts.cached_kv / mixed),
    )


def _at(values: Array, knots: NDArray[np.int64], point: float) -> float:
    return float(np.interp(point, knots, values)) if point > 0 else 0.0
