"""Compiling a plan: from the ops of its layers to the integer tables one simulated step is looked up in.

Ops that depend on the token count alone become one curve over T, evaluated at the CUDA-graph sizes and at tile-edge
knots above them; attention keeps its own variables (see ``simulator.steps.step_tables``). A pipeline stage is its
blocks' curves times their counts, so a trillion-parameter model costs no more to compile than a small one.
"""

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from costmodel.ops.arrays import Array
from costmodel.ops.op_types import Attention, Scan
from simulator.engine_profiles.constant import error_of
from simulator.engine_profiles.engine_kernels import Launches
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.spread import NO_SPREAD, Spread
from simulator.model.cell import AttentionTemplate, KernelChoices
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.spec import Block, ModelSpec
from simulator.plan.plan import Plan
from simulator.steps.op_curves import IntervalEnd, OpCurves, StepSum, label
from simulator.steps.step_ends import at_end
from simulator.steps.step_knots import StepShape, TableKnots, knots_of, padded_tokens
from simulator.steps.step_tables import StepTables

I64 = NDArray[np.int64]

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

    def labels(self) -> list[str]:
        """Return the labels of the ops a step of this stage may run, each once."""
        attention = (self.decode, self.windowed, self.prefill, self.reads, self.context)
        sums = (self.tokens, self.scans, self.samples, self.sends, *attention)
        return list(dict.fromkeys(name for total in sums for name in total.by_label))


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
    padded_tokens: I64  # [max_num_batched_tokens + 1]: tokens a captured step of T tokens really runs with

    def seconds(self, total: StepSum, end: IntervalEnd, only: Container[str] | None = None) -> Array:
        """Return the seconds of priced ops at an end; see `step_ends` for ``only``."""
        return at_end(end, total, spread_frac=self.spread.step_frac, only=only)

    def tables(self, end: IntervalEnd = "middle", only: Container[str] | None = None) -> StepTables:
        """Return the step tables of the best estimate, or of either end of its 90 % interval.

        ``only`` holds the sources of error that are at theirs (`step_ends`).
        """
        knots, host = self.knots, self.profile.host
        frac = self.spread.step_frac

        def seconds(sums: str) -> list[Array]:
            return [self.seconds(getattr(stage, sums), end, only) for stage in self.stages]

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
            prefill_pair_ps=np.stack([_to_ps(curve) for curve in seconds("prefill")]),
            prefill_kv_knots=knots.reads,
            prefill_kv_ps=np.stack([_to_ps(curve) for curve in seconds("reads")]),
            # What attention takes over next to nothing.
            attention_start_ps=_to_ps(
                np.array(
                    [min(curve[0] for curve in both) for both in zip(seconds("prefill"), seconds("reads"), strict=True)]
                )
                * self.has_joint_attention
            ),
            context_knots=knots.reads,
            context_ps=np.stack([_dense(knots.reads, knots.reads, curve) for curve in seconds("context")]),
            host_step_ps=round(float(constant_s(host.step_s, error_of(host.step_s))) * _PS_PER_S),
            host_seq_ps=round(float(constant_s(host.sequence_s, error_of(host.sequence_s))) * _PS_PER_S),
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
        curves = [
            at_end(
                end,
                stage.tokens,
                constant_s=gap_s * stage.all_reduces,
                error_s=error_of(gap_s) * stage.all_reduces,
                spread_frac=frac,
                only=only,
            )
            for stage in self.stages
        ]
        if has_prefill:
            curves = [
                curve + self.seconds(stage.scans, end, only) for curve, stage in zip(curves, self.stages, strict=True)
            ]
        table = self._tokens_dense(curves, captured=mode != "none")
        first = 1 + self._padded_up_to(mode)
        for row, stage in zip(table, self.stages, strict=True):
            floor_s = at_end(
                end,
                constant_s=stage.launches * host.launch_s,
                error_s=stage.launches * error_of(host.launch_s),
                spread_frac=frac,
                only=only,
            )
            np.maximum(row[first:], round(float(floor_s) * _PS_PER_S), out=row[first:])
        return table

    def _padded_up_to(self, mode: Literal["full", "piecewise", "none"]) -> int:
        """Tokens of the largest captured step."""
        sizes = self.profile.capture_sizes(self.shape.captured_tokens) if mode != "none" else []
        return sizes[-1] if sizes else 0

    def _tokens_dense(self, curves: list[Array], *, captured: bool) -> I64:
        tokens = self.padded_tokens if captured else np.arange(len(self.padded_tokens))
        return np.stack([_dense(tokens, self.knots.tokens, curve) for curve in curves])


def compile_plan(
    model: ModelSpec,
    plan: Plan,
    curves: OpCurves,
    *,
    profile: EngineProfile,
    shape: StepShape,
    kernels: KernelChoices,
    spread: Spread = NO_SPREAD,
) -> CompiledPlan:
    """Price every op one rank of each stage of ``plan`` runs; ``spread`` is that of servers, where it is known."""
    window = max((call.decode.window for block in model.unique_blocks for call in block.attention(plan)), default=0)
    knots = knots_of(profile, shape)
    compiler = _Compiler(
        plan=plan,
        curves=curves,
        kernels=kernels,
        knots=knots,
        shape=shape,
        launches=profile.launches,
        shared_expert_tokens=profile.shared_expert_tokens,
    )
    stages = [compiler.layers(blocks) for blocks in model.stage_blocks(plan.pp)]
    first, last = stages[0], stages[-1]
    first.tokens.add_all(model.embedding_ops(plan, knots.tokens), curves)
    last.tokens.add_all(model.final_norm_ops(plan, knots.tokens, kernels), curves)
    last.samples.add_all(model.head_ops(plan, knots.rows), curves)
    for stage in stages[:-1]:
        stage.sends.add_all(model.send_ops(plan, knots.tokens), curves)
    return CompiledPlan(
        stages=tuple(stages),
        knots=knots,
        shape=shape,
        profile=profile,
        window_tokens=window,
        has_joint_attention=curves.costs.cluster.device.architecture in profile.kernels.joint_attention
        and not any(call.context_gemm for block in model.unique_blocks for call in block.attention(plan)),
        spread=spread,
        padded_tokens=padded_tokens(profile, shape),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiler:
    """Prices the layers of one plan's stages, without embedding, head and hand-over."""

    plan: Plan
    curves: OpCurves
    kernels: KernelChoices
    knots: TableKnots
    shape: StepShape
    launches: Launches
    shared_expert_tokens: int  # up to so many, shared experts run beside the routed ones

    def layers(self, blocks: tuple[tuple[Block, int], ...]) -> StageSums:
        """Sum the blocks of one stage, each as often as it occurs."""
        knots = self.knots
        grid = len(knots.batch) * len(knots.kv)
        stage = StageSums(
            tokens=StepSum(len(knots.tokens)),
            pooled=StepSum(len(knots.tokens)),
            samples=StepSum(len(knots.rows)),
            sends=StepSum(len(knots.tokens)),
            decode=StepSum(grid),
            windowed=StepSum(grid),
            prefill=StepSum(len(knots.pairs)),
            reads=StepSum(len(knots.reads)),
            context=StepSum(len(knots.reads)),
            scans=StepSum(len(knots.tokens)),
            all_reduces=sum(count * self._all_reduces(block) for block, count in blocks),
            launches=sum(count * self._launches(block) for block, count in blocks),
        )
        for block, count in blocks:
            stage.tokens.add_all(block.token_ops(self.plan, knots.tokens, self.kernels), self.curves, count)
            for cell in block.cells:
                if isinstance(cell, MixtureOfExperts):
                    stage.pooled.add_all(cell.pooled_ops(self.plan, knots.tokens, self.kernels), self.curves, count)
                    beside = cell.shared_ops(self.plan, knots.tokens, self.kernels)
                    stage.tokens.hide_all(beside, self.curves, knots.tokens <= self.shared_expert_tokens, count)
            for call in block.attention(self.plan):
                self._add_attention(stage, call, count)
            for scan in block.scans(self.plan):
                self._add_scan(stage, scan, count)
        return stage

    def _all_reduces(self, block: Block) -> int:
        return sum(label(op) == "all_reduce" for op in block.token_ops(self.plan, 1, self.kernels))

    def _launches(self, block: Block) -> int:
        """Count what the engine starts, whatever the prices hold; products of block scales count their rounding."""
        started = replace(self.kernels, in_gemm_schemes=frozenset({"fp8_block"}))
        ops = block.token_ops(self.plan, 1, started)
        scans = self.launches.scan * len(block.scans(self.plan))
        return sum(map(self.launches.of, ops)) + len(block.attention(self.plan)) + scans

    def _add_attention(self, stage: StageSums, call: AttentionTemplate, count: int) -> None:
        """Price one attention call, its batch left open, on the knots of its own variables."""
        knots, price = self.knots, self.curves.price
        if call.fixed_kv_tokens:
            # Cross attention: every token of the step attends to the same number of keys, so tokens alone decide.
            keys = call.fixed_kv_tokens
            cross = replace(call.decode, num_decode=knots.tokens, decode_kv=keys, decode_kv_max=keys)
            stage.tokens.add("attention", price(cross), count)
            return
        queries = self.shape.queries
        mean_kv = np.maximum(queries, knots.kv[None, :] // knots.batch[:, None])
        if call.decode.window:
            mean_kv = np.minimum(mean_kv, call.decode.window + queries - 1)
        decode = replace(
            call.decode,
            num_decode=np.repeat(knots.batch, len(knots.kv)),
            decode_q=queries,
            decode_kv=mean_kv.ravel(),
            decode_kv_max=mean_kv.ravel(),
        )
        (stage.windowed if call.decode.window else stage.decode).add("attention", price(decode), count)
        if call.prefill.window:
            # A windowed chunk costs its tokens times the window: the token count alone decides.
            chunk = replace(call.prefill, num_prefill=1, prefill_q=knots.tokens, prefill_kv=knots.tokens)
            stage.tokens.add("attention", price(chunk), count)
            return
        stage.prefill.add("attention", price(_prefill(call.prefill, knots.pairs, self.shape)), count)
        read = np.maximum(knots.reads, 1)
        single = replace(call.decode, num_decode=1, decode_kv=read, decode_kv_max=read)
        stage.reads.add("attention", price(single), count)
        if call.context_gemm is not None:
            stage.context.add("gemm", price(replace(call.context_gemm, m=read)), count)

    def _add_scan(self, stage: StageSums, scan: Scan, count: int) -> None:
        """Price one scan: prefill by the tokens of the step, decode by its sequences, whatever their length."""
        knots = self.knots
        chunks = replace(scan, num_prefill=1, prefill_q=knots.tokens)
        stage.scans.add("scan", self.curves.price(chunks), count)
        steps = replace(scan, num_decode=knots.batch, decode_q=self.shape.queries)
        stage.decode.add("scan", self.curves.price(steps).repeated(len(knots.kv)), count)


def _prefill(call: Attention, pairs: I64, shape: StepShape) -> Attention:
    """One chunk with about ``pairs`` causal pairs: a whole prompt while it fits the budget, then over a prefix."""
    whole = np.sqrt(2.0 * np.maximum(pairs, 1))
    chunk = np.clip(np.rint(whole), 1, shape.max_num_batched_tokens).astype(np.int64)
    keys = np.maximum(np.rint(pairs / chunk + (chunk - 1) / 2).astype(np.int64), chunk)
    return replace(call, num_prefill=1, prefill_q=chunk, prefill_kv=keys)


def _to_ps(seconds: NDArray[np.floating]) -> I64:
    ps: I64 = np.rint(seconds * _PS_PER_S).astype(np.int64)
    return ps


def _dense(points: I64, knots: I64, seconds: Array) -> I64:
    """Evaluate a curve at every point; a step of nothing costs nothing."""
    dense: I64 = _to_ps(np.interp(points, knots, seconds))
    dense[points == 0] = 0
    return dense
