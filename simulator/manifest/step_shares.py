"""Which share of a step each op shape takes: of a step that prefills one prompt, and of one in which all decode.

Both steps are as large as the plan's limits allow: ``max_num_batched_tokens`` of one prompt, or ``max_num_seqs``
sequences half as long as any may get. Their ops are counted as often as a step of one rank runs them and priced one by
one; what overlaps counts in full. Shares say where time goes, not how long a step takes.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from costmodel.cost_model import CostModel
from costmodel.families.all import manifest_rows
from costmodel.families.family import Row
from costmodel.ops.op_types import Moe, Op
from simulator.feasible.kv_format import served
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.placement import placed
from simulator.serving import Serving, StartedPlan


def step_rows(
    serving: Serving, start: StartedPlan, costs: CostModel, *, is_prefill: bool
) -> Iterator[tuple[str, Row, float]]:
    """Yield family, manifest row and seconds of every op of a step, an op that runs several times in several rows."""
    for op, times in step_ops(serving, start, is_prefill=is_prefill):
        if isinstance(op, Moe) and not op.is_gated:
            continue
        seconds = times * float(np.asarray(costs.predict(op).latency_s).sum())
        for row in manifest_rows(op, serving.cluster):
            yield op.family, row, seconds


def step_ops(serving: Serving, start: StartedPlan, *, is_prefill: bool) -> Iterator[tuple[Op, float]]:
    """Yield the ops of one step of a plan, all stages together, and how often each runs."""
    model, plan = serving.model, served(serving.model, start.plan, serving.profile)
    kernels = serving.kernels(start.plan)
    sequences, longest = start.limits.max_num_seqs, start.limits.max_model_len
    prompt = min(start.limits.max_num_batched_tokens, longest)
    queries = start.compiled.shape.queries
    tokens = prompt if is_prefill else sequences * queries
    for blocks in model.stage_blocks(plan):
        for block, count in blocks:
            ops: list[Op] = [*block.token_ops(plan, tokens, kernels)]
            for cell in block.cells:
                if isinstance(cell, MixtureOfExperts):
                    ops += cell.pooled_ops(plan, tokens, kernels)
                    ops += cell.shared_ops(plan, tokens, kernels)
            for call in block.attention(plan):
                if is_prefill:
                    ops.append(replace(call.prefill, num_prefill=1, prefill_q=prompt, prefill_kv=prompt))
                    continue
                mean = min(longest // 2, call.decode.window or longest)
                decode = replace(call.decode, num_decode=sequences, decode_q=queries)
                ops.append(replace(decode, decode_kv=mean, decode_kv_max=mean))
            for scan in block.scans(plan):
                ops.append(scan.prompt(prompt) if is_prefill else scan.steps(sequences, queries))
            yield from ((op, float(count)) for op in placed(plan, ops))
    once = [*model.embedding_ops(plan, tokens), *model.final_norm_ops(plan, tokens, kernels)]
    once += model.head_ops(plan, 1 if is_prefill else tokens)
    once += [op for _ in range(plan.pp - 1) for op in model.send_ops(plan, tokens)]
    yield from ((op, 1.0) for op in placed(plan, once))
