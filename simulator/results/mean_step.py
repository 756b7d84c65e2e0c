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
from simulator.steps.compile_encoder import EncoderSums
from simulator.steps.compiled_plan import StageSums
from simulator.steps.step_knots import TableKnots
from simulator.steps.step_sum import StepSum

Quantity = Callable[[StepSum], Array | None]  # None where a sum has nothing of it


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
    encoder_steps: int
    item_tokens: int
    item_pairs: int

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
            encoder_steps=int(totals.encoder_steps[replica]),
            item_tokens=int(totals.item_tokens[replica]),
            item_pairs=int(totals.item_pairs[replica]),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tabled:
    """One quantity of one stage at the knots of its tables; None for a table in which nothing has it."""

    tokens: Array | None
    mixed_tokens: Array | None  # of steps with prefill: scans work through all of their tokens
    samples: Array | None
    sends: Array | None
    decode: Array | None  # flattened, as ``windowed``
    windowed: Array | None
    prefill: Array | None
    reads: Array | None
    context: Array | None

    @classmethod
    def of(cls, stage: StageSums, quantity: Quantity) -> "Tabled":
        """Take ``quantity`` of every table of a stage: the same for all replicas."""
        tokens, scans = quantity(stage.tokens), quantity(stage.scans)
        return cls(
            tokens=tokens if stage.decode_tokens is None else quantity(stage.decode_tokens),
            mixed_tokens=scans if tokens is None else tokens if scans is None else tokens + scans,
            samples=quantity(stage.samples),
            sends=quantity(stage.sends),
            decode=quantity(stage.decode),
            windowed=quantity(stage.windowed),
            prefill=quantity(stage.prefill),
            reads=quantity(stage.reads),
            context=quantity(stage.context),
        )


class MeanSteps:
    """Where the mean steps of a replica lie between the knots of a plan's tables."""

    def __init__(self, knots: TableKnots, counts: StepCounts) -> None:
        steps, mixed = max(1, counts.steps), max(1, counts.mixed_steps)
        decoding = counts.decode_tokens / steps
        batch = (counts.decode_tokens - counts.drafts) / steps
        self._counts = counts
        self._row = int(np.clip(np.searchsorted(knots.batch, batch), 0, len(knots.batch) - 1)) * len(knots.kv)
        self._decode_tokens = Place.of(knots.tokens, decoding)
        self._mixed_tokens = Place.of(knots.tokens, (counts.tokens - decoding * counts.decode_steps) / mixed)
        self._rows = Place.of(knots.rows, counts.rows / steps)
        self._sends = Place.of(knots.tokens, counts.tokens / steps)
        self._kv = Place.of(knots.kv, counts.decode_kv / steps)
        self._pairs = Place.of(knots.pairs, counts.pairs / mixed)
        self._reads = Place.of(knots.reads, counts.prefill_kv / mixed)
        self._context = Place.of(knots.reads, counts.cached_kv / mixed)

    def totals(self, tabled: Tabled) -> StageTotals:
        """Sum a quantity over all steps of one rank of its stage."""
        steps, mixed = self._counts.steps, self._counts.mixed_steps
        decode = 0.0
        for table in (tabled.decode, tabled.windowed):
            decode += steps * self._kv.value(table, self._row)
        return StageTotals(
            tokens=self._counts.decode_steps * self._decode_tokens.value(tabled.tokens)
            + mixed * self._mixed_tokens.value(tabled.mixed_tokens),
            samples=steps * self._rows.value(tabled.samples),
            sends=steps * self._sends.value(tabled.sends),
            decode=decode,
            prefill=mixed * self._pairs.value(tabled.prefill),
            reads=mixed * self._reads.value(tabled.reads),
            context=mixed * self._context.value(tabled.context),
        )


@dataclass(frozen=True, slots=True)
class Place:
    """A point among ascending knots: what ``numpy.interp`` works out there, for as many curves as are asked."""

    knot: int = 0  # the last one up to it
    below: float = 0.0  # from there to the point
    above: float = 0.0  # from the next one to the point, negative
    gap: float = 0.0  # between the two; none where the point is on a knot or outside them
    is_nothing: bool = False  # a step of nothing costs nothing

    @classmethod
    def of(cls, knots: NDArray[np.int64], point: float) -> "Place":
        """Find ``point``."""
        if not point > 0:
            return cls(is_nothing=True)
        at = max(0, int(np.searchsorted(knots, point, side="right")) - 1)
        low, high = float(knots[at]), float(knots[min(at + 1, len(knots) - 1)])
        if not low < point < high:
            return cls(at)
        return cls(at, point - low, point - high, high - low)

    def value(self, values: Array | None, begin: int = 0) -> float:
        """Interpolate among the values of all knots, which begin at ``begin``; nothing where there are none."""
        if self.is_nothing or values is None:
            return 0.0
        low = float(values[begin + self.knot])
        if not self.gap:
            return low
        high = float(values[begin + self.knot + 1])
        slope = (high - low) / self.gap
        found = slope * self.below + low
        return found if found == found else slope * self.above + high  # noqa: PLR0124 - NaN: as numpy tries again


def encoder_total(encoder: EncoderSums | None, counts: StepCounts, quantity: Quantity) -> float:
    """Sum ``quantity`` over all steps in which one rank's encoder ran."""
    if encoder is None or counts.encoder_steps == 0:
        return 0.0
    shares = counts.encoder_steps * encoder.ranks  # items of a step are taken to be spread evenly
    tokens = Place.of(encoder.token_knots, counts.item_tokens / shares).value(quantity(encoder.tokens))
    pairs = Place.of(encoder.pair_knots, counts.item_pairs / shares).value(quantity(encoder.attention))
    return counts.encoder_steps * (tokens + pairs)
