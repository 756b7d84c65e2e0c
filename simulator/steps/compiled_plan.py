"""A compiled plan: the priced ops of its stages, and the integer tables one simulated step is looked up in.

Tables are made at the best estimate or at either end of its interval (`step_ends`), with the host time of the engine.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import field
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from costmodel.power_model import PowerModel
from simulator.engine_profiles.constant import error_of
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.spread import Spread
from simulator.steps.compile_encoder import EncoderSums
from simulator.steps.step_ends import at_end
from simulator.steps.step_knots import StepShape, TableKnots
from simulator.steps.step_sum import IntervalEnd, StepSum
from simulator.steps.step_tables import EncoderTables, StepTables

I64 = NDArray[np.int64]
Item = TypeVar("Item")
Made = TypeVar("Made")

_PS_PER_S: Final = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSums:
    """Priced ops of one rank of one pipeline stage, at the knots; what tables, energy and breakdown are made from."""

    tokens: StepSum
    pooled: StepSum  # of ``tokens``, what works on the tokens of all attention-data ranks: experts and their transfers
    samples: StepSum
    sends: StepSum
    decode: StepSum  # (batch, kv) knots, flattened
    windowed: StepSum  # likewise, sliding-window layers
    prefill: StepSum
    reads: StepSum
    context: StepSum  # expanding cached latent KV, on the knots of ``reads``
    scans: StepSum  # scans over the tokens of a step with prefill, on the knots of ``tokens``
    all_reduces: int  # calls per step
    launches: int  # kernels the host starts one by one in a step that runs without a graph
    decode_tokens: StepSum | None = None  # ``tokens`` in steps without prefill, where a power cap slows them apart
    _kept: dict[str, Any] = field(init=False, default_factory=dict, compare=False, repr=False)

    def kept(self, name: str, work: Callable[[], Made]) -> Made:
        """Return what ``work`` makes of the sums, which is done once and goes by ``name``."""
        if name not in self._kept:
            self._kept[name] = work()
        made: Made = self._kept[name]
        return made

    @property
    def tokens_of_decode(self) -> StepSum:
        """What depends on the tokens of a step without prefill alone."""
        return self.tokens if self.decode_tokens is None else self.decode_tokens

    def labels(self) -> list[str]:
        """Return the labels of the ops a step of this stage may run, each once."""
        attention = (self.decode, self.windowed, self.prefill, self.reads, self.context)
        sums = (self.tokens, self.scans, self.samples, self.sends, *attention)
        return list(dict.fromkeys(name for total in sums for name in total.by_label))


def once_each(items: Sequence[Item], work: Callable[[Item], Made]) -> list[Made]:
    """Return ``work`` of each item, in order; stages alike are one object, of which it is done once."""
    done: dict[int, Made] = {}
    for item in items:
        if id(item) not in done:
            done[id(item)] = work(item)
    return [done[id(item)] for item in items]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPlan:
    """A plan's priced stages and how to lay them out as tables."""

    stages: tuple[StageSums, ...]
    knots: TableKnots
    shape: StepShape
    profile: EngineProfile
    window_tokens: int
    has_joint_attention: bool  # one kernel attends for chunks and decoding sequences alike
    spread: Spread  # of servers, what stands in for another included
    power: PowerModel
    clock_mhz: float | None  # locked
    encoder: EncoderSums | None = None  # of requests with images or audio
    padded_tokens: I64  # [max_num_batched_tokens + 1]: tokens a captured step of T tokens really runs with

    def seconds(self, total: StepSum, end: IntervalEnd, only: Container[str] | None = None) -> Array:
        """Return the seconds of priced ops at an end; see `step_ends` for ``only``."""
        frac = self.spread.step_frac
        if end == "middle" or only is not None:
            return at_end(end, total, spread_frac=frac, only=only)
        return total.kept(f"{end}, {frac}", lambda: at_end(end, total, spread_frac=frac))

    def tables(self, end: IntervalEnd = "middle", only: Container[str] | None = None) -> StepTables:
        """Return the step tables of the best estimate, or of either end of its 90 % interval.

        ``only`` holds the sources of error that are at theirs (`step_ends`).
        """
        knots, host = self.knots, self.profile.host
        frac = self.spread.step_frac

        def seconds(sums: str) -> list[Array]:
            return once_each(self.stages, lambda stage: self.seconds(getattr(stage, sums), end, only))

        def constant_s(value: float | Array, error: float | Array) -> Array:
            return at_end(end, constant_s=value, error_s=error, spread_frac=frac, only=only)

        grid = (len(knots.batch), len(knots.kv))
        rows = np.arange(self.shape.decode_tokens + 1)
        sequences = rows / self.shape.queries
        serial_s = constant_s(
            np.where(rows > 0, host.serial_step_s + sequences * host.serial_sequence_s, 0.0),
            np.where(rows > 0, np.hypot(error_of(host.serial_step_s), sequences * error_of(host.serial_sequence_s)), 0),
        )
        last = len(self.stages) - 1
        prefill, reads = seconds("prefill"), seconds("reads")
        return StepTables(
            token_mixed_ps=self._token_table(self.profile.graphs.mixed, end, only, has_prefill=True),
            token_decode_ps=self._token_table(self.profile.graphs.decode, end, only, has_prefill=False),
            pooled_ps=self._tokens_dense(seconds("pooled"), captured=False),
            padded_mixed=self._padded_up_to(self.profile.graphs.mixed),
            padded_decode=self._padded_up_to(self.profile.graphs.decode),
            sample_ps=np.stack(
                [
                    _dense(rows, knots.rows, curve) + (_to_ps(serial_s) if index == last else 0)
                    for index, curve in enumerate(seconds("samples"))
                ]
            ),
            send_ps=self._tokens_dense(seconds("sends"), captured=True)
            if last
            else np.zeros((1, len(self.padded_tokens)), dtype=np.int64),
            decode_batch_knots=knots.batch,
            decode_kv_knots=knots.kv,
            decode_ps=np.stack([_to_ps(curve).reshape(grid) for curve in seconds("decode")]),
            windowed_ps=np.stack([_to_ps(curve).reshape(grid) for curve in seconds("windowed")]),
            window_tokens=self.window_tokens,
            prefill_pair_knots=knots.pairs,
            prefill_pair_ps=np.stack([_to_ps(curve) for curve in prefill]),
            prefill_kv_knots=knots.reads,
            prefill_kv_ps=np.stack([_to_ps(curve) for curve in reads]),
            # What attention takes over next to nothing.
            attention_start_ps=_to_ps(
                np.array([min(pair[0], read[0]) for pair, read in zip(prefill, reads, strict=True)])
                * self.has_joint_attention
            ),
            context_knots=knots.reads,
            context_ps=np.stack([_dense(knots.reads, knots.reads, curve) for curve in seconds("context")]),
            host_step_ps=round(float(constant_s(host.step_s, error_of(host.step_s))) * _PS_PER_S),
            host_seq_ps=round(float(constant_s(host.sequence_s, error_of(host.sequence_s))) * _PS_PER_S),
            encoder=self._encoder_tables(end, only),
        )

    def _encoder_tables(self, end: IntervalEnd, only: Container[str] | None) -> EncoderTables | None:
        encoder, launch_s = self.encoder, self.profile.host.launch_s
        if encoder is None:
            return None
        floor_s = at_end(
            end,
            constant_s=encoder.launches * launch_s,
            error_s=encoder.launches * error_of(launch_s),
            spread_frac=self.spread.step_frac,
            only=only,
        )
        return EncoderTables(
            token_knots=np.concatenate([[0], encoder.token_knots]),
            token_ps=np.concatenate([[0], _to_ps(self.seconds(encoder.tokens, end, only))]),
            pair_knots=np.concatenate([[0], encoder.pair_knots]),
            pair_ps=np.concatenate([[0], _to_ps(self.seconds(encoder.attention, end, only))]),
            launch_ps=round(float(floor_s) * _PS_PER_S),
            ranks=encoder.ranks,
        )

    def _token_table(
        self,
        mode: Literal["full", "piecewise", "none"],
        end: IntervalEnd,
        only: Container[str] | None,
        *,
        has_prefill: bool,
    ) -> I64:
        """Dense token table of steps that run in one graph mode.

        Pieces add host time around each all-reduce; a step without graph lasts at least as long as its launches.
        Where there is prefill, scans work through all tokens of the step; decode steps of scans are in ``decode``.
        """
        host, frac = self.profile.host, self.spread.step_frac
        gap_s = host.all_reduce_s if mode == "piecewise" else 0.0
        tokens = self._step_tokens(captured=mode != "none")
        first = 1 + self._padded_up_to(mode)

        def row(stage: StageSums) -> I64:
            curve = at_end(
                end,
                stage.tokens if has_prefill else stage.tokens_of_decode,
                constant_s=gap_s * stage.all_reduces,
                error_s=error_of(gap_s) * stage.all_reduces,
                spread_frac=frac,
                only=only,
            )
            if has_prefill:
                curve = curve + self.seconds(stage.scans, end, only)
            dense = _dense(tokens, self.knots.tokens, curve)
            floor_s = at_end(
                end,
                constant_s=stage.launches * host.launch_s,
                error_s=stage.launches * error_of(host.launch_s),
                spread_frac=frac,
                only=only,
            )
            np.maximum(dense[first:], round(float(floor_s) * _PS_PER_S), out=dense[first:])
            return dense

        return np.stack(once_each(self.stages, row))

    def _padded_up_to(self, mode: Literal["full", "piecewise", "none"]) -> int:
        """Tokens of the largest captured step."""
        sizes = self.profile.graphs.capture_sizes(self.shape.captured_tokens) if mode != "none" else []
        return sizes[-1] if sizes else 0

    def _step_tokens(self, *, captured: bool) -> I64:
        """Tokens that a step of so many runs with."""
        return self.padded_tokens if captured else np.arange(len(self.padded_tokens))

    def _tokens_dense(self, curves: list[Array], *, captured: bool) -> I64:
        tokens = self._step_tokens(captured=captured)
        return np.stack(once_each(curves, lambda curve: _dense(tokens, self.knots.tokens, curve)))


def _to_ps(seconds: NDArray[np.floating]) -> I64:
    ps: I64 = np.rint(seconds * _PS_PER_S).astype(np.int64)
    return ps


def _dense(points: I64, knots: I64, seconds: Array) -> I64:
    """Evaluate a curve at every point; a step of nothing costs nothing."""
    if not seconds.any():
        return np.zeros(len(points), dtype=np.int64)
    dense: I64 = _to_ps(np.interp(points, knots, seconds))
    dense[points == 0] = 0
    return dense
