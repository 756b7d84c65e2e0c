"""Pipeline stages against a plain scheduler written from the rules: micro-batches, stage times, eligibility."""

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import AsyncPipeline, EngineLimits
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import Workload


@dataclass(eq=False)
class Request:
    """One request of the reference."""

    arrival: int
    prompt: int
    output: int
    computed: int = 0
    generated: int = 0  # tokens scheduled so far
    seen: int = 0  # of them, those the scheduler has seen
    under_way: int = 0  # micro-batches it is in whose results are not seen
    blocks: int = 0
    turn: int = 0  # decision from which it may decode again
    back: int = 0  # when its last token is there
    decodes: bool = False
    scheduled: int = -1
    first: int = -1
    finish: int = -1
    preemptions: int = 0

    @property
    def is_done(self) -> bool:
        """Whether its last token is scheduled."""
        return self.generated >= self.output


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Picoseconds of a stage (per step, token, decoding sequence, token of its KV), of a hand-over and of the host."""

    step: int
    token: int
    seq: int
    kv: int
    send: int
    host: int


class Pipeline:
    """One replica: a queue of decisions, each of which looks at every request, and stages that run one after the other.

    Written from ``EngineCore.step_with_batch_queue`` and ``AsyncScheduler`` of vLLM 0.33.
    """

    def __init__(self, limits: EngineLimits, costs: Costs, stages: int, workload: Workload) -> None:
        self.limits, self.costs, self.stages = limits, costs, stages
        columns = (workload.arrival_s - workload.arrival_s[0], workload.prompt_tokens, workload.output_tokens)
        self.requests = [
            Request(round(float(arrival) * 1e12), int(prompt), int(output))
            for arrival, prompt, output in zip(*columns, strict=True)
        ]
        self.future = deque(self.requests)
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.free_blocks = limits.num_gpu_blocks
        self.stage_free = [0] * stages
        self.end = 0  # of the last micro-batch
        self.decisions = 0
        self.queue: deque[tuple[int, list[tuple[Request, int]]]] = (
            deque()
        )  # when it is back, who is in it with what token
        self.steps: list[tuple[int, int, int, int]] = []
        self.rule = limits.async_pipeline if limits.async_scheduling else "returned"

    def grow(self, request: Request, tokens: int) -> bool:
        """Hold blocks for ``tokens``, preempting the last running request as often as needed."""
        need = -(-tokens // self.limits.block_size) - request.blocks
        while need > self.free_blocks:
            victim = self.running[-1]
            self.leave(victim)
            victim.preemptions += 1
            self.preempted = True
            victim.computed, victim.decodes = 0, False
            self.waiting.insert(0, victim)
            if victim is request:
                return False
        self.free_blocks -= max(0, need)
        request.blocks += max(0, need)
        return True

    def leave(self, request: Request) -> None:
        """Give up slot and blocks."""
        self.running.remove(request)
        self.free_blocks += request.blocks
        request.blocks = 0

    def lacks(self, request: Request) -> int:
        """Tokens a running request could run at this decision."""
        if not request.decodes:
            return request.prompt + request.generated - request.computed
        if self.rule == "unbroken":
            # Tokens under way but one count as drafts, so it goes on until all but its last are seen.
            is_ready = request.seen < request.output - 1 and request.computed + 1 < self.limits.max_model_len
        else:
            is_staggered = self.rule == "staggered" and self.decisions >= request.turn
            is_ready = not request.is_done and (is_staggered or not request.under_way)
        return int(is_ready)

    def schedule(self, decision: int) -> list[tuple[Request, int]]:
        """Form a micro-batch: running requests in their order, and then the queue."""
        self.decisions += 1
        left = self.limits.max_num_batched_tokens
        batch: list[tuple[Request, int]] = []
        self.preempted = False
        at = 0
        while at < len(self.running) and left:
            request = self.running[at]
            at += 1
            chunk = min(self.lacks(request), left)
            if not chunk:
                continue
            if not self.grow(request, request.computed + chunk):
                break
            batch.append((request, chunk))
            left -= chunk
        for request in list(self.waiting):
            if self.preempted or not left or len(self.running) == self.limits.max_num_seqs:
                break
            if request.under_way:
                continue
            target = request.prompt + request.generated
            if -(-target // self.limits.block_size) > self.free_blocks:
                break
            self.waiting.remove(request)
            self.running.append(request)
            self.grow(request, min(target, left))
            request.scheduled = decision if request.scheduled < 0 else request.scheduled
            batch.append((request, min(target, left)))
            left -= min(target, left)
        return batch

    def launch(self, decision: int, batch: list[tuple[Request, int]]) -> None:
        """Send a micro-batch through the stages."""
        costs, is_async = self.costs, self.limits.async_scheduling
        decodes = [request for request, _ in batch if request.decodes]
        tokens = sum(chunk for _, chunk in batch)
        kv = sum(request.computed + 1 for request in decodes)
        duration = costs.step + costs.token * tokens + costs.seq * len(decodes) + costs.kv * kv
        ready = max([decision if is_async else decision + costs.host, *(request.back for request in decodes)])
        first_start = end = 0
        for stage in range(self.stages):
            start = max(ready, self.stage_free[stage])
            end = start + duration
            self.stage_free[stage] = end
            if stage == 0:
                first_start = start
                if is_async:
                    self.stage_free[0] = max(end, start + costs.host)
            ready = end + costs.send
        self.end = end
        self.steps.append((decision, first_start, end, tokens))
        entry: list[tuple[Request, int]] = []
        for request, chunk in batch:
            request.computed += chunk
            request.under_way += 1
            token = 0
            if request.computed == request.prompt + request.generated:
                request.generated += 1
                token = request.generated
                request.decodes, request.turn, request.back = True, self.decisions + self.stages, end
                request.first = end if request.first < 0 else request.first
                request.finish = end if token == request.output else request.finish
            entry.append((request, token))
        self.queue.append((end, entry))

    def see_oldest(self) -> int:
        """See what the oldest decision gave; returns when that was."""
        end, entry = self.queue.popleft()
        for request, token in entry:
            request.under_way -= 1
            request.seen = max(request.seen, token)
            if token == request.output:
                if request in self.waiting:
                    self.waiting.remove(request)
                else:
                    self.leave(request)
                self.tells_workers = True
        return end

    def run(self) -> None:
        """Run the whole workload."""
        places = self.stages + int(self.rule == "staggered")
        decision = 0
        self.tells_workers = False
        while True:
            while self.future and self.future[0].arrival <= decision:
                self.waiting.append(self.future.popleft())
            if self.running or self.waiting or self.tells_workers:
                self.tells_workers = False
                batch = self.schedule(decision)
                if batch:
                    self.launch(decision, batch)
                    decision += self.costs.host
                else:
                    self.queue.append((self.end, []))
                if len(self.queue) < places and (self.running or self.waiting):
                    continue
            elif not self.queue:
                if not self.future:
                    return
                decision = max(self.end, self.future[0].arrival)
                continue
            decision = max(decision, self.see_oldest())


@pytest.mark.parametrize("rule", ["synchronous", "staggered", "returned", "unbroken"])
@pytest.mark.parametrize("seed", range(60))
def test_stages_agree_with_the_reference_on_every_step_and_request(
    seed: int, rule: AsyncPipeline | Literal["synchronous"]
) -> None:
    """Random workloads under tight limits: decisions, starts, ends, tokens and preemptions are those of the rules."""
    rng = np.random.default_rng(seed)
    n, stages = int(rng.integers(1, 60)), int(rng.integers(2, 5))
    block = int(rng.choice([1, 4, 16]))
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=int(rng.integers(1, 12)),
        max_num_batched_tokens=int(rng.integers(12, 120)),
        max_model_len=200,
        block_size=block,
        num_gpu_blocks=int(rng.integers(110, 500)) // block + 1,
        async_scheduling=rule != "synchronous",
        async_pipeline="staggered" if rule == "synchronous" else rule,
    )
    costs = Costs(
        step=int(rng.integers(2_000, 9_000)),
        token=int(rng.integers(1, 300)),
        seq=int(rng.integers(0, 99)),
        kv=int(rng.integers(0, 40)),
        send=int(rng.integers(0, 900)),
        host=int(rng.choice([0, 500, 20_000])),
    )
    workload = Workload(
        name=f"random {seed}",
        arrival_s=np.cumsum(rng.exponential(rng.choice([1e-9, 30e-9]), n)),
        prompt_tokens=rng.integers(1, 60, n),
        output_tokens=rng.integers(1, 40, n),
    )
    reference = Pipeline(limits, costs, stages, workload)
    reference.run()
    tables = linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        step_ps=costs.step,
        token_ps=costs.token,
        decode_seq_ps=costs.seq,
        decode_kv_ps=costs.kv,
        stages=stages,
        send_ps=costs.send,
        host_step_ps=costs.host,
    )
    result = run_replicas(tables, limits, workload, log=True)
    assert result.log is not None
    tokens = result.log["prefill_tokens"] + result.log["decodes"]
    times = [result.log[name] for name in ("decision_ps", "start_ps", "end_ps")]
    assert np.column_stack([*times, tokens]).tolist() == [list(step) for step in reference.steps]
    assert result.scheduled_ps.tolist() == [request.scheduled for request in reference.requests]
    assert result.first_token_ps.tolist() == [request.first for request in reference.requests]
    assert result.finish_ps.tolist() == [request.finish for request in reference.requests]
    assert result.preemptions.tolist() == [request.preemptions for request in reference.requests]
