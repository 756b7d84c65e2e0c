"""Compiling a plan: from the ops of its layers to what a step costs at the knots of its tables.

Ops that depend on the token count alone become one curve over T, evaluated at the CUDA-graph sizes and at tile-edge
knots above them; attention keeps its own variables (see ``simulator.steps.step_tables``). A pipeline stage is its
blocks' curves times their counts, so a trillion-parameter model costs no more to compile than a small one.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import Attention
from simulator.engine_profiles.engine_kernels import Launches
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.load_factors import LoadFactors
from simulator.engine_profiles.spread import NO_SPREAD, Spread
from simulator.model.cell import AttentionTemplate, KernelChoices, StateCall, pools_tokens
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.placement import placed
from simulator.model.spec import Block, ModelSpec
from simulator.plan.plan import Plan
from simulator.steps.capped_stage import capped_stage
from simulator.steps.compile_encoder import compile_encoder
from simulator.steps.compiled_plan import CompiledPlan, StageSums, once_each
from simulator.steps.op_curves import OpCurves, label
from simulator.steps.power_cap import PowerCap
from simulator.steps.step_knots import StepShape, TableKnots, knots_of, padded_tokens
from simulator.steps.step_sum import StepSum

I64 = NDArray[np.int64]


def compile_plan(
    model: ModelSpec,
    plan: Plan,
    curves: OpCurves,
    *,
    profile: EngineProfile,
    shape: StepShape,
    kernels: KernelChoices,
    spread: Spread = NO_SPREAD,
    context_tokens: int = 1024,
    has_items: bool = False,
    drafts: int = 0,
) -> CompiledPlan:
    """Price every op one rank of each stage of ``plan`` runs; ``spread`` is that of servers, where it is known.

    ``context_tokens`` is what the mean request holds of the KV cache: the power of decode steps follows from it.
    The last layer of ``model`` makes so many ``drafts`` per step; where it makes none it is a layer like the others.
    ``has_items``: requests hold images or audio, for which the model's encoder runs.
    """
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
    stages = _stages(compiler, model)
    if drafts:
        compiler.add_drafting(stages[-1], model, drafts)
    factors = profile.load_factors
    if factors.points:
        stages = once_each(stages, lambda stage: _at_load(stage, knots, factors, plan.stage_ranks))
    cap = _cap_of(plan, curves)
    if cap is not None:
        stages = once_each(
            stages,
            lambda stage: capped_stage(
                stage, knots, shape, cap, context_tokens=context_tokens, attention_dp=plan.attention_dp
            ),
        )
    encoder = None
    if has_items:
        encoder = compile_encoder(model, plan, curves, kernels=kernels, launches=profile.launches, cap=cap)
    return CompiledPlan(
        stages=tuple(stages),
        encoder=encoder,
        knots=knots,
        shape=shape,
        profile=profile,
        window_tokens=window,
        has_joint_attention=curves.costs.cluster.device.architecture in profile.kernels.joint_attention
        and not any(call.context_gemm for block in model.unique_blocks for call in block.attention(plan)),
        spread=spread,
        power=curves.power,
        clock_mhz=curves.costs.clock_mhz,
        padded_tokens=padded_tokens(profile, shape),
    )


def _stages(compiler: "_Compiler", model: ModelSpec) -> list[StageSums]:
    """Price the stages with embedding, head and hand-over; stages alike, between the first and the last, are one."""
    plan, curves, knots = compiler.plan, compiler.curves, compiler.knots
    blocks = model.stage_blocks(plan)
    last = plan.pp - 1
    alike: dict[object, StageSums] = {}
    stages = []
    for place, own in enumerate(blocks):
        stage = alike.get(own) if 0 < place < last else None
        if stage is None:
            stage = compiler.layers(own)
            if place == 0:
                stage.tokens.add_all(placed(plan, model.embedding_ops(plan, knots.tokens)), curves)
            if place == last:
                stage.tokens.add_all(model.final_norm_ops(plan, knots.tokens, compiler.kernels), curves)
                stage.samples.add_all(placed(plan, model.head_ops(plan, knots.rows)), curves)
            else:
                stage.sends.add_all(placed(plan, model.send_ops(plan, knots.tokens)), curves)
            if 0 < place < last:
                alike[own] = stage
        stages.append(stage)
    return stages


def _cap_of(plan: Plan, curves: OpCurves) -> PowerCap | None:
    """Return the lower of the plan's power cap and the device's own; None where neither is below its TDP."""
    device, power = curves.costs.cluster.device, curves.power
    cap_w = min(plan.power_cap_w or device.tdp_w, device.power_cap_w or device.tdp_w)
    if cap_w >= device.tdp_w:
        return None
    return PowerCap(cap_w=cap_w, power=power, law=power, clock_mhz=curves.costs.clock_mhz or power.max_mhz)


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
        started = [(count, self._started(block)) for block, count in blocks]
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
            all_reduces=sum(count * calls for count, (calls, _) in started),
            launches=sum(count * launches for count, (_, launches) in started),
        )
        for block, count in blocks:
            ops = placed(self.plan, block.token_ops(self.plan, knots.tokens, self.kernels))
            stage.tokens.add_all(ops, self.curves, count)
            for cell in block.cells:
                if pools_tokens(cell):
                    pooled = placed(self.plan, cell.pooled_ops(self.plan, knots.tokens, self.kernels))
                    stage.pooled.add_all(pooled, self.curves, count)
                if isinstance(cell, MixtureOfExperts):
                    beside = cell.shared_ops(self.plan, knots.tokens, self.kernels)
                    stage.tokens.hide_all(beside, self.curves, knots.tokens <= self.shared_expert_tokens, count)
            for call in block.attention(self.plan):
                self._add_attention(stage, call, count)
            for scan in block.scans(self.plan):
                self._add_scan(stage, scan, count)
        return stage

    def add_drafting(self, stage: StageSums, model: ModelSpec, drafts: int) -> None:
        """Let the last layer make ``drafts`` drafts for every sequence that decodes.

        Its first pass goes over all tokens of the step, as those of the other layers do, which puts their keys into its
        cache. Each further pass is over one token of every sequence. After each the head chooses a draft.
        """
        knots, price = self.knots, self.curves.price
        layer, times = model.unique_blocks[model.layers[-1]], len(knots.kv)
        passes = [(op, drafts - 1) for op in layer.token_ops(self.plan, knots.batch, self.kernels)]
        for op, count in [*passes, *((op, drafts) for op in model.head_ops(self.plan, knots.batch))]:
            stage.decode.add(label(op), price(op).repeated(times), count)
        for call in layer.attention(self.plan):
            kv = np.maximum(1, knots.kv[None, :] // knots.batch[:, None]).ravel()
            sequences = np.repeat(knots.batch, times)
            single = replace(call.decode, num_decode=sequences, decode_q=1, decode_kv=kv, decode_kv_max=kv)
            stage.decode.add("attention", price(single), drafts - 1)

    def _started(self, block: Block) -> tuple[int, int]:
        """Count the all-reduces of a block, and the kernels the engine starts for it, whatever the prices hold.

        Products of block scales start one for their rounding.
        """
        kernels = replace(self.kernels, in_gemm_schemes=frozenset({"fp8_block"}))
        ops = block.token_ops(self.plan, 1, kernels)
        scans = self.launches.scan * len(block.scans(self.plan))
        launches = sum(map(self.launches.of, ops)) + len(block.attention(self.plan)) + scans
        return sum(label(op) == "all_reduce" for op in ops), launches

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
        mean_kv = np.maximum(queries, -(-(knots.kv[None, :] // knots.batch[:, None]) // call.context_shares))
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
        own = -(-read // call.context_shares)
        single = replace(call.decode, num_decode=1, decode_kv=own, decode_kv_max=own)
        stage.reads.add("attention", price(single), count)
        if call.context_gemm is not None:
            stage.context.add("gemm", price(replace(call.context_gemm, m=read)), count)

    def _add_scan(self, stage: StageSums, scan: StateCall, count: int) -> None:
        """Price one scan: prefill by the tokens of the step, decode by its sequences, whatever their length."""
        knots = self.knots
        chunks = scan.prompt(knots.tokens)
        stage.scans.add(label(chunks), self.curves.price(chunks), count)
        steps = scan.steps(knots.batch, self.shape.queries)
        stage.decode.add(label(steps), self.curves.price(steps).repeated(len(knots.kv)), count)


def _at_load(stage: StageSums, knots: TableKnots, factors: LoadFactors, ranks: int) -> StageSums:
    """Put the factors of a server on all ops of a stage, by the tokens of their step.

    A prompt's causal pairs say how many tokens it has; reading a prefix has no tokens of its own, and is left alone.
    """
    tokens = factors.at(knots.tokens, ranks)
    sequences = np.repeat(factors.at(knots.batch, ranks), len(knots.kv))
    return replace(
        stage,
        tokens=stage.tokens.scaled(tokens),
        pooled=stage.pooled.scaled(tokens),
        sends=stage.sends.scaled(tokens),
        scans=stage.scans.scaled(tokens),
        samples=stage.samples.scaled(factors.at(knots.rows, ranks)),
        decode=stage.decode.scaled(sequences),
        windowed=stage.windowed.scaled(sequences),
        prefill=stage.prefill.scaled(factors.at(np.sqrt(2.0 * knots.pairs), ranks)),
    )


def _prefill(call: Attention, pairs: I64, shape: StepShape) -> Attention:
    """One chunk with about ``pairs`` causal pairs: a whole prompt while it fits the budget, then over a prefix."""
    whole = np.sqrt(2.0 * np.maximum(pairs, 1))
    chunk = np.clip(np.rint(whole), 1, shape.max_num_batched_tokens).astype(np.int64)
    keys = np.maximum(np.rint(pairs / chunk + (chunk - 1) / 2).astype(np.int64), chunk)
    return replace(call, num_prefill=1, prefill_q=chunk, prefill_kv=keys)
