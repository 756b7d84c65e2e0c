"""A plain scheduler of pipelines, written from the rules: micro-batches, stages, eligibility, ranks that step together.

Written from ``EngineCore.step_with_batch_queue``, ``AsyncScheduler`` and ``DPEngineCoreProc`` of vLLM 0.33, and from
``PyExecutor._executor_loop_pp`` of TensorRT-LLM 1.0. It shares no code with the engine.
"""

from collections import deque
from copy import deepcopy
from dataclasses import dataclass, field

from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.workload.workload import Workload


@dataclass(eq=False)
class Request:
    """One request of the reference."""

    number: int
    arrival: int
    prompt: int
    output: int
    rank: int
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
    """Picoseconds of a stage (per step, token, decoding sequence, token of its KV), of a hand-over and of the host.

    Of a token, ``pooled`` more goes to experts that all ranks share above ``padded`` tokens.
    """

    step: int
    token: int
    seq: int
    kv: int
    send: int
    host: int
    pooled: int = 0
    padded: int = 0


@dataclass(eq=False)
class Rank:
    """The scheduler of one rank: it looks at every one of its requests in every decision."""

    limits: EngineLimits
    rule: str
    free_blocks: int
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    preempted: bool = False
    has_dummy_under_way: bool = False

    @property
    def has_requests(self) -> bool:
        """Whether it has anything to do, now or when results are back."""
        return bool(self.waiting or self.running)

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

    def lacks(self, request: Request, number: int) -> int:
        """Tokens a running request could run at a decision."""
        if not request.decodes:
            return request.prompt + request.generated - request.computed
        if self.rule == "unbroken":
            # Tokens under way but one count as drafts, so it goes on until all but its last are seen.
            is_ready = request.seen < request.output - 1 and request.computed + 1 < self.limits.max_model_len
        else:
            is_staggered = self.rule == "staggered" and number >= request.turn
            is_ready = not request.is_done and (is_staggered or not request.under_way)
        return int(is_ready)

    def schedule(self, decision: int, number: int) -> list[tuple[Request, int]]:
        """Form its part of a micro-batch: running requests in their order, and then the queue."""
        left = self.limits.max_num_batched_tokens
        batch: list[tuple[Request, int]] = []
        self.preempted = False
        at = 0
        while at < len(self.running) and left:
            request = self.running[at]
            at += 1
            chunk = min(self.lacks(request, number), left)
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
            whole = request.prompt + request.output - 1
            if -(-max(target, whole * self.limits.reserves_output) // self.limits.block_size) > self.free_blocks:
                break
            self.waiting.remove(request)
            self.running.append(request)
            self.grow(request, whole if self.limits.reserves_output else min(target, left))
            request.scheduled = decision if request.scheduled < 0 else request.scheduled
            batch.append((request, min(target, left)))
            left -= min(target, left)
        return batch

    def is_ready(self, decision: int, number: int) -> bool:
        """Whether it would schedule something, be it the dummy of a rank without requests."""
        if not self.has_requests:
            return not self.has_dummy_under_way
        return bool(deepcopy(self).schedule(decision, number))


class Pipeline:
    """One replica: a queue of decisions of all ranks, and stages that run one after the other."""

    def __init__(self, limits: EngineLimits, costs: Costs, stages: int, workload: Workload, ranks: int = 1) -> None:
        self.limits, self.costs, self.stages = limits, costs, stages
        columns = (workload.arrival_s - workload.arrival_s[0], workload.prompt_tokens, workload.output_tokens)
        owners = [0] * len(workload) if workload.replica is None else workload.replica.tolist()
        self.requests = [
            Request(i, round(float(arrival) * 1e12), int(prompt), int(output), rank)
            for i, (arrival, prompt, output, rank) in enumerate(zip(*columns, owners, strict=True))
        ]
        self.future = deque(self.requests)
        rule = limits.async_pipeline if limits.async_scheduling else "returned"
        self.ranks = [Rank(limits, rule, limits.num_gpu_blocks) for _ in range(ranks)]
        self.places = stages + int(rule == "staggered")
        self.stage_free = [0] * stages
        self.end = 0  # of the last micro-batch
        self.decisions = 0
        # When each is back, who is in it with what token, and whose dummies.
        self.queue: deque[tuple[int, list[tuple[Request, int]], list[Rank]]] = deque()
        self.steps: list[tuple[int, int, int, int, int]] = []

    @property
    def has_requests(self) -> bool:
        """Whether any rank has."""
        return any(rank.has_requests for rank in self.ranks)

    def schedule(self, decision: int) -> list[list[tuple[Request, int]]]:
        """Let every rank plan its part; none where all are needed and one has nothing."""
        self.decisions += 1
        needs_all = self.limits.pipeline_ranks == "all" and len(self.ranks) > 1
        if needs_all and not all(rank.is_ready(decision, self.decisions) for rank in self.ranks):
            return [[] for _ in self.ranks]
        return [rank.schedule(decision, self.decisions) for rank in self.ranks]

    def stage_ps(self, parts: list[list[tuple[Request, int]]]) -> int:
        """How long a stage takes for what all ranks plan."""
        costs = self.costs
        tokens = [sum(chunk for _, chunk in part) for part in parts]
        pooled = max(tokens) if max(tokens) <= costs.padded else -(-sum(tokens) // len(tokens))
        slowest = 0
        for part in parts:
            decodes = [request for request, _ in part if request.decodes]
            kv = sum(request.computed + 1 for request in decodes)
            slowest = max(slowest, costs.seq * len(decodes) + costs.kv * kv)
        return costs.step + costs.token * max(tokens) + costs.pooled * pooled + slowest

    def launch(self, decision: int, parts: list[list[tuple[Request, int]]]) -> int:
        """Send a micro-batch through the stages; returns the host's time."""
        is_async = self.limits.async_scheduling
        host = self.costs.host
        decodes = [request for part in parts for request, _ in part if request.decodes]
        duration = self.stage_ps(parts)
        ready = max([decision if is_async else decision + host, *(request.back for request in decodes)])
        first_start = end = 0
        for stage in range(self.stages):
            start = max(ready, self.stage_free[stage])
            end = start + duration
            self.stage_free[stage] = end
            if stage == 0:
                first_start = start
                if is_async:
                    self.stage_free[0] = max(end, start + host)
            ready = end + self.costs.send
        self.end = end
        entry: list[tuple[Request, int]] = []
        dummies = [rank for rank in self.ranks if not rank.has_requests]
        for rank in dummies:
            rank.has_dummy_under_way = True
        for number, part in enumerate(parts):
            if part:
                self.steps.append((number, decision, first_start, end, sum(chunk for _, chunk in part)))
            entry += [(request, self.run_chunk(request, chunk, end)) for request, chunk in part]
        self.queue.append((end, entry, dummies))
        return host

    def run_chunk(self, request: Request, chunk: int, end: int) -> int:
        """Count a chunk; returns the number of the token it gives, or 0."""
        request.computed += chunk
        request.under_way += 1
        if request.computed < request.prompt + request.generated:
            return 0
        request.generated += 1
        request.decodes, request.turn, request.back = True, self.decisions + self.stages, end
        request.first = end if request.first < 0 else request.first
        request.finish = end if request.generated == request.output else request.finish
        return request.generated

    def see_oldest(self) -> int:
        """See what the oldest decision gave; returns when that was."""
        end, entry, dummies = self.queue.popleft()
        for rank in dummies:
            rank.has_dummy_under_way = False
        for request, token in entry:
            request.under_way -= 1
            request.seen = max(request.seen, token)
            if token == request.output:
                rank = self.ranks[request.rank]
                if request in rank.waiting:
                    rank.waiting.remove(request)
                else:
                    rank.leave(request)
                self.tells_workers = True
        return end

    def run(self) -> None:
        """Run the whole workload."""
        decision = 0
        self.tells_workers = False
        while True:
            while self.future and self.future[0].arrival <= decision:
                request = self.future.popleft()
                self.ranks[request.rank].waiting.append(request)
            if self.has_requests or self.tells_workers:
                self.tells_workers = False
                parts = self.schedule(decision)
                if any(parts):
                    decision += self.launch(decision, parts)
                else:
                    self.queue.append((self.end, [], []))
                if len(self.queue) < self.places and self.has_requests:
                    continue
            elif not self.queue:
                if not self.future:
                    return
                decision = max(self.end, self.future[0].arrival)
                continue
            decision = max(decision, self.see_oldest())
