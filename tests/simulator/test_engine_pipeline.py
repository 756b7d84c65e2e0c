"""Pipeline stages against a plain scheduler written from the rules: micro-batches, stage times, eligibility."""

from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import Workload


@dataclass(eq=False)
class Request:
    """One request of the reference."""

    arrival: int
    prompt: int
    output: int
    computed: int = 0
    generated: int = 0
    blocks: int = 0
    launch: int = 0  # number of the last micro-batch it decoded in, and when that is back
    back: int = 0
    decodes: bool = False
    scheduled: int = -1
    first: int = -1
    finish: int = -1
    preemptions: int = 0


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
    """One replica: every decision looks at every request, every micro-batch visits every stage in turn."""

    def __init__(self, limits: EngineLimits, costs: Costs, stages: int, workload: Workload) -> None:
        self.limits, self.costs, self.stages = limits, costs, stages
        columns = (workload.arrival_s - workload.arrival_s[0], workload.prompt_tokens, workload.output_tokens)
        self.requests = [
            Request(round(float(arrival) * 1e12), int(prompt), int(output))
            for arrival, prompt, output in zip(*columns, strict=True)
        ]
        self.future = deque(self.requests)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.free_blocks = limits.num_gpu_blocks
        self.stage_free = [0] * stages
        self.ends: list[int] = []  # of every micro-batch so far
        self.steps: list[tuple[int, int, int, int]] = []

    def grow(self, request: Request, tokens: int) -> bool:
        """Hold blocks for ``tokens``, preempting the last running request as often as needed."""
        need = -(-tokens // self.limits.block_size) - request.blocks
        while need > self.free_blocks:
            victim = self.running[-1]
            self.leave(victim)
            victim.preemptions += 1
            self.preempted = True
            if victim.finish < 0:
                victim.computed, victim.decodes = 0, False
                self.waiting.appendleft(victim)
            if victim is request:
                return False
        self.free_blocks -= need
        request.blocks += need
        return True

    def leave(self, request: Request) -> None:
        """Give up slot and blocks."""
        self.running.remove(request)
        self.free_blocks += request.blocks
        request.blocks = 0

    def may_decode(self, request: Request, decision: int) -> bool:
        """Whether its token is back or, asynchronously, will be when the first stage has gone round."""
        if not request.decodes or request.finish >= 0:
            return False
        rounds = len(self.ends) + 1 - request.launch
        return request.back <= decision or (self.limits.async_scheduling and rounds >= self.stages)

    def schedule(self, decision: int) -> list[tuple[Request, int]]:
        """Form a micro-batch: the decodes that wait longest, prompts under way, and then the queue."""
        ready = [request for request in self.running if self.may_decode(request, decision)]
        turn = min((request.launch for request in ready), default=0)
        left = self.limits.max_num_batched_tokens
        batch: list[tuple[Request, int]] = []
        self.preempted = False
        at = 0
        while at < len(self.running) and left:
            request = self.running[at]
            at += 1
            if request.finish >= 0 or (request.decodes and not (request in ready and request.launch == turn)):
                continue
            chunk = min(request.prompt + request.generated - request.computed, left)
            if not self.grow(request, request.computed + chunk):
                break
            batch.append((request, chunk))
            left -= chunk
        while not self.preempted and self.waiting and left and len(self.running) < self.limits.max_num_seqs:
            request = self.waiting[0]
            target = request.prompt + request.generated
            if -(-target // self.limits.block_size) > self.free_blocks:
                break
            self.running.append(self.waiting.popleft())
            self.grow(request, min(target, left))
            request.scheduled = decision if request.scheduled < 0 else request.scheduled
            batch.append((request, min(target, left)))
            left -= min(target, left)
        return batch

    def launch(self, decision: int, batch: list[tuple[Request, int]]) -> int:
        """Send a micro-batch through the stages; returns when it is back."""
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
        self.ends.append(end)
        self.steps.append((decision, first_start, end, tokens))
        return end

    def run(self) -> None:
        """Run the whole workload."""
        decision = 0
        depth = self.stages + int(self.limits.async_scheduling)
        while True:
            while self.future and self.future[0].arrival <= decision:
                self.waiting.append(self.future.popleft())
            for request in [request for request in self.running if 0 <= request.finish <= decision]:
                self.leave(request)
            batch = self.schedule(decision)
            if batch:
                end = self.launch(decision, batch)
                for request, chunk in batch:
                    request.computed += chunk
                    if request.computed < request.prompt + request.generated:
                        continue
                    request.generated += 1
                    request.decodes, request.launch, request.back = True, len(self.ends), end
                    request.first = end if request.first < 0 else request.first
                    request.finish = end if request.generated == request.output else request.finish
                oldest = self.ends[-depth] if len(self.ends) >= depth else 0
                decision = max(decision + self.costs.host, oldest)
                continue
            under_way = [end for end in self.ends[-depth:] if end > decision]
            if under_way:
                decision = min(under_way)
            elif not self.preempted:
                if not self.future:
                    return
                decision = self.future[0].arrival


@pytest.mark.parametrize("seed", range(100))
def test_stages_agree_with_the_reference_on_every_step_and_request(seed: int) -> None:
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
        async_scheduling=bool(rng.random() < 0.5),
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
