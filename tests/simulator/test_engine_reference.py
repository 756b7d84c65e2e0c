"""The compiled engine against a plain scheduler written straight from the rules, request by request, step by step.

The reference below shares no code with the engine: it walks every running request in every step, keeps lists instead of
counters, and never leaps. Both must agree on every time of every request, to the picosecond.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from math import gcd

import numpy as np
import pytest

from simulator.engine.log_row import LogRow
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits, PolicyName, RouterName
from simulator.steps.step_tables import StepTables, linear_tables
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, PrefixBlocks, Workload

Q = 4096  # clock ticks per picosecond


@dataclass(eq=False)
class Block:
    """One KV block."""

    name: object = None  # what it holds, if it is hashed
    users: int = 0


@dataclass(eq=False)
class Request:
    """One request of the reference."""

    number: int
    prompt: int
    output: int
    units: list[int]
    arrival: int = 0
    scheduled: int = -1
    first: int = -1
    finish: int = -1
    computed: int = 0
    generated: int = 0
    seen: int = 0  # of the generated ones those that the scheduler has seen
    stale: int = 0  # of those it has not seen those that were under way when the request was preempted
    preemptions: int = 0
    hit: int = 0
    blocks: list[Block] = field(default_factory=list)
    is_decoding: bool = False
    is_done: bool = False

    @property
    def tokens(self) -> int:
        """Prompt and generated tokens."""
        return self.prompt + self.generated


class Cache:
    """The KV blocks of one replica, one by one, in vLLM's order of eviction."""

    def __init__(self, limits: EngineLimits, unit_tokens: int) -> None:
        self.limits = limits
        self.size = limits.block_size
        self.parts = unit_tokens // limits.block_size
        self.queue: deque[Block] = deque(Block() for _ in range(limits.num_gpu_blocks))
        self.hashed: dict[object, list[Block]] = {}  # copies in the order in which they were hashed

    @property
    def free(self) -> int:
        """Blocks that can be allocated."""
        return len(self.queue)

    def name_of(self, request: Request, place: int) -> object:
        """Return what a full block of a request holds: what its id names, or tokens that nobody else has."""
        whole = min(len(request.units) * self.parts, request.prompt // self.size)
        if place < whole:
            return request.units[place // self.parts], place % self.parts
        return "own", request.number, place

    def allocate(self, request: Request, blocks: int) -> None:
        """Take blocks from the head of the queue; what they held is forgotten."""
        for _ in range(blocks):
            block = self.queue.popleft()
            if block.name is not None:
                self.hashed[block.name].remove(block)
                block.name = None
            block.users = 1
            request.blocks.append(block)

    def match(self, request: Request) -> list[Block]:
        """Leading cached blocks of a request, without that of its last token."""
        found: list[Block] = []
        if not self.limits.enable_prefix_caching:
            return found
        for place in range((request.tokens - 1) // self.size):
            copies = self.hashed.get(self.name_of(request, place))
            if not copies:
                break
            found.append(copies[0])
        return found

    def take(self, request: Request, blocks: list[Block]) -> None:
        """Use cached blocks."""
        for block in blocks:
            if block.users == 0:
                self.queue.remove(block)
            block.users += 1
        request.blocks = list(blocks)

    def publish(self, request: Request, tokens: int) -> None:
        """Hash the full blocks of the first tokens that are not hashed yet, copies of cached ones too."""
        if self.limits.enable_prefix_caching:
            for place, block in enumerate(request.blocks[: tokens // self.size]):
                if block.name is None:
                    block.name = self.name_of(request, place)
                    self.hashed.setdefault(block.name, []).append(block)

    def give_back(self, request: Request) -> None:
        """Free all blocks of a request, tail first: hashed ones to the end of the queue, the others to its head."""
        for block in reversed(request.blocks):
            block.users -= 1
            if block.users == 0 and block.name is None:
                self.queue.appendleft(block)
            elif block.users == 0:
                self.queue.append(block)
        request.blocks = []


class Reference:
    """One replica under vLLM's V1 rules."""

    def __init__(self, tables: StepTables, limits: EngineLimits, workload: Workload, unit_tokens: int) -> None:
        self.tables, self.limits, self.workload = tables, limits, workload
        prefix = workload.prefix if limits.enable_prefix_caching else None
        self.requests = [
            Request(
                number=i,
                prompt=int(workload.prompt_tokens[i]),
                output=max(1, int(workload.output_tokens[i])),
                units=[] if prefix is None else [int(u) for u in prefix.ids[prefix.offsets[i] : prefix.offsets[i + 1]]],
                arrival=round(float(workload.arrival_s[i] - workload.arrival_s[0]) * 1e12),
            )
            for i in range(len(workload))
        ]
        self.cache = Cache(limits, unit_tokens)
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        # Visible at, order, request or None for a client slot, when that slot sends, whether the frontend let it pass.
        self.future: list[tuple[int, int, Request | None, int, bool]] = []
        # Ends of steps whose tokens the scheduler has not seen, who gets one, and who of them is done.
        self.flying: list[tuple[int, list[Request], list[Request]]] = []
        self.steps: list[tuple[int, ...]] = []
        self.next_send = 0
        self.order = 0
        self.is_async = limits.async_scheduling and limits.policy == "vllm-v1"
        self.frontend = round(limits.frontend_s * 1e12)
        self.gap = round(limits.frontend_gap_s * 1e12)
        self.last_out = -self.gap
        self.waited = 0
        self.timeout = round((workload.client_timeout_s or 0) * 1e12)

    def expect(self, time: int, request: Request | None, sent: int = 0, *, passed: bool = False) -> None:
        """Note a future arrival; None is a free client slot that sends at ``sent``."""
        self.future.append((time, self.order, request, sent, passed))
        self.order += 1
        self.future.sort(key=lambda entry: entry[:2])

    def blocks_for(self, tokens: int) -> int:
        """Blocks for a number of tokens."""
        return -(-tokens // self.limits.block_size)

    def open_client(self) -> None:
        """Note the arrivals that no answer has to come before."""
        client = self.workload.client
        if isinstance(client, ClosedLoop):
            self.phase_end = client.warmup or len(self.requests)
            self.answers_left = client.warmup
            self.burst = min(client.concurrency, self.phase_end)
            for _ in range(self.burst):
                self.expect(self.frontend, None)
        elif isinstance(client, CappedLoop):
            self.phase_end, self.answers_left, self.burst = len(self.requests), 0, 0
            self.due = [request.arrival for request in self.requests]
            for due in self.due[: client.concurrency]:
                self.expect(due + self.frontend, None, due)
            self.reserved = min(client.concurrency, len(self.due))
        else:
            for request in self.requests:
                self.expect(request.arrival + self.frontend, request)

    def run(self) -> None:
        """Run the whole workload."""
        self.open_client()
        decision, end = 0, 0  # ps, ticks
        while True:
            while self.future and self.future[0][0] <= decision:
                self.arrive()
            self.see_outputs(decision)
            batch = self.schedule(decision)
            if not batch:
                if self.preempted_now:
                    # Everybody was preempted: decide again at once, or when the running step has ended.
                    decision = max(decision, end // Q)
                    continue
                if decision < end // Q:
                    decision = end // Q
                elif self.future:
                    decision = max(decision, self.future[0][0])
                else:
                    assert not self.waiting
                    return
                continue
            start = decision * Q if decision > end // Q else end
            end = start + self.duration(batch)
            self.finish_step(batch, end // Q)
            self.steps.append((decision, start // Q, end // Q, sum(n for _, n, _ in batch), len(batch)))
            decision = start // Q if self.is_async else end // Q

    def arrive(self) -> None:
        """Take the next arrival."""
        time, order, request, sent, passed = self.future.pop(0)
        if request is not None and order < 0:
            self.leave(request, time)
            return
        if request is None and not passed:
            self.last_out = max(time, self.last_out + self.gap)
            if self.last_out > time:
                self.expect(self.last_out, None, sent, passed=True)
                return
        if request is None:
            client = self.workload.client
            assert isinstance(client, ClosedLoop | CappedLoop)
            if self.burst:
                self.burst -= 1
            elif self.answers_left:
                self.answers_left -= 1
                if not self.answers_left:
                    self.phase_end = len(self.requests)
                    for _ in range(min(client.concurrency, self.phase_end - self.next_send) - 1):
                        self.expect(time, None, sent)
            if self.next_send == self.phase_end:
                return
            request = self.requests[self.next_send]
            self.next_send += 1
            request.arrival = sent
        if self.timeout and time - request.arrival >= self.timeout:
            self.answered(time)
            return
        last = request.prompt + request.output - 1
        is_whole = not self.limits.enable_chunked_prefill or self.limits.policy == "orca"
        if (
            last + 1 > self.limits.max_model_len
            or self.blocks_for(last) > self.limits.num_gpu_blocks
            or (is_whole and last > self.limits.max_num_batched_tokens)
        ):
            self.answered(time)
            return
        self.waiting.append(request)
        if self.timeout:
            # Ahead of everything that happens at the same time.
            self.future.append((request.arrival + self.timeout, request.number - len(self.requests), request, 0, False))
            self.future.sort(key=lambda entry: entry[:2])

    def leave(self, request: Request, time: int) -> None:
        """Let the client give a request up, unless its last token is under way."""
        if request.is_done:
            return
        if request in self.waiting:
            self.waiting.remove(request)
        else:
            self.running.remove(request)
            self.cache.give_back(request)
        self.answered(time)

    def answered(self, time: int) -> None:
        """Free the client's slot."""
        if isinstance(self.workload.client, ClosedLoop):
            self.expect(time + max(1, self.frontend), None, time)
        if isinstance(self.workload.client, CappedLoop) and self.reserved < len(self.due):
            # The slot is promised to the next request, and sends it when it is due.
            due = self.due[self.reserved]
            self.reserved += 1
            if due <= time:
                self.expect(time + max(1, self.frontend), None, time)
            else:
                self.expect(due + self.frontend, None, due)

    def see_outputs(self, decision: int) -> None:
        """See the tokens that are back, and release requests whose last one is."""
        while self.flying and self.flying[0][0] <= decision:
            _, sampled, done = self.flying.pop(0)
            for request in sampled:
                request.seen += 1
                if request.stale:
                    request.stale -= 1
                elif request in self.running:
                    under_way = max(0, request.generated - request.seen)
                    self.cache.publish(request, request.computed - under_way)
            for request in done:
                if request in self.running:
                    self.running.remove(request)
                    self.cache.give_back(request)

    def preempt(self) -> Request:
        """Preempt the last running request."""
        victim = self.running.pop()
        self.cache.give_back(victim)
        victim.stale = victim.generated - victim.seen
        victim.preemptions += 1
        self.preempted_now = True
        if not victim.is_done:
            victim.computed = 0
            victim.is_decoding = False
            self.waiting.appendleft(victim)
        return victim

    def schedule(self, decision: int) -> list[tuple[Request, int, bool]]:
        """Take one decision under the policy's rules."""
        self.preempted_now = False
        budget = self.limits.max_num_batched_tokens
        if self.limits.policy == "vllm-v0" and not self.limits.enable_chunked_prefill:
            return self.admit(decision, budget) or self.run_running(budget)
        batch = self.run_running(budget)
        if self.preempted_now and self.limits.policy != "vllm-v0":
            return batch
        return batch + self.admit(decision, budget - sum(chunk for _, chunk, _ in batch))

    def threshold(self) -> int:
        """Longest chunk of one prefill."""
        threshold = self.limits.long_prefill_token_threshold
        if self.limits.policy == "vllm-v0" and not self.limits.enable_chunked_prefill:
            threshold = 0
        is_alone = len(self.running) + len(self.waiting) <= 1
        return threshold if threshold and not is_alone else self.limits.max_num_batched_tokens

    def run_running(self, budget: int) -> list[tuple[Request, int, bool]]:
        """Give every running request what it lacks, in list order, preempting from the tail."""
        threshold = self.threshold()
        batch: list[tuple[Request, int, bool]] = []
        at = 0
        while at < len(self.running) and budget:
            request = self.running[at]
            chunk = 0 if request.is_done else min(request.tokens - request.computed, threshold, budget)
            at += 1
            if chunk == 0:
                continue
            need = max(0, self.blocks_for(request.computed + chunk) - len(request.blocks))
            while need > self.cache.free and self.preempt() is not request:
                pass
            if request not in self.running:
                break
            self.grow(request, chunk, need)
            batch.append((request, chunk, request.is_decoding))
            budget -= chunk
        return batch

    def admit(self, decision: int, budget: int) -> list[tuple[Request, int, bool]]:
        """Admit from the head of the queue until something does not fit."""
        limits, cache = self.limits, self.cache
        batch: list[tuple[Request, int, bool]] = []
        if self.holds_back(budget):
            return batch
        while self.waiting and budget and len(self.running) < limits.max_num_seqs:
            request = self.waiting[0]
            found = cache.match(request)
            hit = len(found) * limits.block_size
            chunk = min(request.tokens - hit, self.threshold())
            if chunk > budget and (not limits.enable_chunked_prefill or limits.policy == "orca"):
                break
            chunk = min(chunk, budget)
            whole = request.prompt + request.output - 1
            take = {"vllm-v1": hit + chunk, "vllm-v0": request.tokens, "orca": whole}
            if limits.reserves_output:
                take["vllm-v1"] = whole
            goal = max(take[limits.policy], request.tokens if limits.reserve_full_isl else 0)
            need = self.blocks_for(goal) - len(found)
            revived = sum(block.users == 0 for block in found)
            if need + revived + (limits.watermark_blocks if self.running else 0) > cache.free:
                break
            self.waiting.popleft()
            self.running.append(request)
            cache.take(request, found)
            request.computed = hit
            if request.scheduled < 0:
                request.scheduled, request.hit = decision, hit
            self.grow(request, chunk, self.blocks_for(take[limits.policy]) - len(found))
            batch.append((request, chunk, False))
            budget -= chunk
        return batch

    def holds_back(self, budget: int) -> bool:
        """Whether prompts that could start wait for company in this step."""
        limits = self.limits
        decodes = sum(r.is_decoding and not r.is_done for r in self.running)
        if not limits.batch_wait_iters or not decodes:
            return False
        seats, free, ready = limits.max_num_seqs - len(self.running), self.cache.free - limits.watermark_blocks, 0
        for request in list(self.waiting)[:seats]:
            found = self.cache.match(request)
            lacking = request.tokens - len(found) * limits.block_size
            goal = request.prompt + request.output - 1 if limits.reserves_output else request.tokens
            used = sum(block.users > 0 for block in found)
            need = self.blocks_for(goal) - used
            if lacking > budget or need > free:
                break
            budget, free, ready = budget - lacking, free - need, ready + request.tokens
        if not ready:
            return False
        waits = self.waited < limits.batch_wait_iters and decodes + ready < limits.batch_wait_tokens
        self.waited = self.waited + 1 if waits else 0
        return waits

    def grow(self, request: Request, chunk: int, blocks: int) -> None:
        """Schedule a chunk on new blocks."""
        self.cache.allocate(request, blocks)
        request.computed += chunk
        self.cache.publish(request, min(request.computed, request.prompt + request.seen))

    def duration(self, batch: list[tuple[Request, int, bool]]) -> int:
        """Cost of a step in ticks."""
        tables = self.tables
        decodes = [r for r, _, is_decode in batch if is_decode]
        prefills = [(r, n) for r, n, is_decode in batch if not is_decode]
        tokens = sum(n for _, n, _ in batch)
        rows = len(batch)
        table = tables.token_mixed_ps if prefills else tables.token_decode_ps
        ps = int(table[0, tokens]) + int(tables.sample_ps[0, rows])
        pairs = sum(sum(range(r.computed - n + 1, r.computed + 1)) for r, n in prefills)
        reads = sum(r.computed for r, _ in prefills)
        if prefills:
            chunks = max(
                line(tables.prefill_pair_knots, tables.prefill_pair_ps[0], pairs),
                line(tables.prefill_kv_knots, tables.prefill_kv_ps[0], reads),
            )
            ps += max(0, chunks - (int(tables.attention_start_ps[0]) if decodes else 0))
            cached = sum(r.computed - n for r, n in prefills)
            ps += line(tables.context_knots, tables.context_ps[0], cached)
        ticks = ps * Q
        if decodes:
            ticks += plane(tables, tables.decode_ps[0], len(decodes), sum(r.computed for r in decodes))
            if tables.window_tokens:
                kv = sum(min(r.computed, tables.window_tokens) for r in decodes)
                ticks += plane(tables, tables.windowed_ps[0], len(decodes), kv)
        host = (tables.host_step_ps + tables.host_seq_ps * rows) * Q
        return max(ticks, host) if self.is_async else ticks + host

    def finish_step(self, batch: list[tuple[Request, int, bool]], end: int) -> None:
        """Count the step's tokens."""
        sampled, done = [], []
        for request, _, _ in batch:
            if request.computed < request.tokens:
                continue
            sampled.append(request)
            request.generated += 1
            request.is_decoding = True
            if request.first < 0:
                request.first = end
            if request.generated == request.output:
                request.finish = end
                request.is_done = True
                done.append(request)
                self.answered(end)
        self.flying.append((end, sampled, done))


def line(knots: np.ndarray, values: np.ndarray, x: int) -> int:
    """Linear between knots, in float64 as the engine documents for prefill."""
    j = min(max(int(np.searchsorted(knots, x, side="right")) - 1, 0), len(knots) - 2)
    share = float(x - int(knots[j])) / float(int(knots[j + 1]) - int(knots[j]))
    return int(values[j]) + int(float(int(values[j + 1]) - int(values[j])) * share)


def plane(tables: StepTables, table: np.ndarray, batch: int, kv: int) -> int:
    """Bilinear decode cost in ticks: floor in the batch, then a slope of whole ticks per token of KV."""
    knots = tables.decode_batch_knots
    b = max(int(np.searchsorted(knots, batch, side="right")) - 1, 0)
    k = tables.decode_kv_knots
    j = min(max(int(np.searchsorted(k, kv, side="right")) - 1, 0), len(k) - 2)

    def at(column: int) -> int:
        low = int(table[b, column])
        if batch == int(knots[b]):
            return low
        return low + (int(table[b + 1, column]) - low) * (batch - int(knots[b])) // (int(knots[b + 1]) - int(knots[b]))

    slope = (at(j + 1) - at(j)) * Q // (int(k[j + 1]) - int(k[j]))
    return at(j) * Q + slope * (kv - int(k[j]))


def random_case(seed: int) -> tuple[StepTables, EngineLimits, Workload]:
    """Draw a small workload under tight limits: long prompts, few blocks, shared prefixes, open and closed loops."""
    rng = np.random.default_rng(seed)
    block = int(rng.choice([1, 4, 16]))
    max_seqs = int(rng.integers(1, 12))
    max_tokens = int(rng.integers(max(8, max_seqs), 120))
    is_chunked = bool(rng.random() < 0.8)
    n = int(rng.integers(1, 60))
    prompt = rng.integers(1, 100, n)
    output = rng.integers(0, 80, n)
    unit = block * int(rng.choice([1, 2]))
    counts = prompt // unit
    family = rng.integers(0, 4, n)
    # A prefix-unique id: requests of a family share their first blocks, the rest is their own.
    shared = rng.integers(0, 12, n)
    ids = [
        int(family[i]) * 1000 + k if k < shared[i] else 10_000 + i * 1000 + k
        for i in range(n)
        for k in range(counts[i])
    ]
    is_closed = bool(rng.random() < 0.4)
    concurrency = int(rng.integers(1, 20))
    warmup = int(rng.integers(0, n)) if rng.random() < 0.5 else 0
    host = bool(rng.random() < 0.5)
    window = int(rng.choice([0, 0, 24]))
    tables = linear_tables(
        max_num_seqs=max_seqs,
        max_num_batched_tokens=max_tokens,
        step_ps=int(rng.integers(1_000, 9_000)),
        token_ps=int(rng.integers(1, 400)),
        sample_seq_ps=int(rng.integers(0, 50)),
        decode_seq_ps=int(rng.integers(0, 99)),
        decode_kv_ps=int(rng.integers(0, 60)),
        pair_ps=int(rng.integers(0, 9)),
        kv_read_ps=int(rng.integers(0, 9)),
        context_kv_ps=int(rng.integers(0, 9)),
        attention_start_ps=int(rng.choice([0, 300])),
        windowed_kv_ps=int(rng.integers(0, 60)),
        window_tokens=window,
        kv_knots=(0, 37, 150, 400, 100_000),
        host_step_ps=int(rng.integers(0, 12_000)) if host else 0,
        host_seq_ps=int(rng.integers(0, 500)) if host else 0,
    )
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=max_seqs,
        max_num_batched_tokens=max_tokens if is_chunked else max(max_tokens, 200),
        max_model_len=int(rng.choice([100, 200])),
        block_size=block,
        num_gpu_blocks=int(rng.integers(60, 700)) // block + 2,
        enable_chunked_prefill=is_chunked,
        enable_prefix_caching=bool(rng.random() < 0.5),
        async_scheduling=bool(rng.random() < 0.6),
        reserve_full_isl=bool(rng.random() < 0.7),
        watermark_blocks=int(rng.choice([0, 0, 2])),
        long_prefill_token_threshold=int(rng.choice([0, 0, 5, 30])),
        frontend_s=float(rng.choice([0.0, 5e-9])),
        frontend_gap_s=float(rng.choice([0.0, 7e-9])),
    )
    if not is_chunked:
        tables = linear_tables(
            max_num_seqs=max_seqs, max_num_batched_tokens=limits.max_num_batched_tokens, step_ps=5_000, token_ps=90
        )
    workload = Workload(
        name=f"random {seed}",
        arrival_s=np.cumsum(rng.exponential(rng.choice([1e-9, 30e-9, 300e-9]), n)),
        prompt_tokens=prompt,
        output_tokens=output,
        client=ClosedLoop(concurrency=concurrency, warmup=warmup) if is_closed else OpenLoop(),
        prefix=PrefixBlocks(
            block_tokens=unit, offsets=np.concatenate([[0], np.cumsum(counts)]), ids=np.array(ids, dtype=np.int64)
        ),
    )
    return tables, limits, workload


def in_whole_blocks(limits: EngineLimits) -> EngineLimits:
    """Return limits for as many tokens of KV whose blocks divide the tokens of a step, as SGLang asks for."""
    block = gcd(limits.block_size, limits.max_num_batched_tokens)
    return replace(limits, block_size=block, num_gpu_blocks=limits.num_gpu_blocks * limits.block_size // block)


def compare(tables: StepTables, limits: EngineLimits, workload: Workload) -> None:
    """Assert that engine and reference agree on every step and every request."""
    assert workload.prefix is not None
    reference = Reference(tables, limits, workload, max(workload.prefix.block_tokens, limits.block_size))
    reference.run()
    result = run_replicas(tables, limits, workload, log=True)
    assert result.log is not None
    tokens = result.log["prefill_tokens"] + result.log["decodes"]
    rows = result.log["prefills"] + result.log["decodes"]
    times = [result.log[name] for name in ("decision_ps", "start_ps", "end_ps")]
    assert np.column_stack([*times, tokens, rows]).tolist() == [list(step) for step in reference.steps]
    requests = reference.requests
    assert result.arrival_ps.tolist() == [r.arrival for r in requests]
    assert result.scheduled_ps.tolist() == [r.scheduled for r in requests]
    assert result.first_token_ps.tolist() == [r.first for r in requests]
    assert result.preemptions.tolist() == [r.preemptions for r in requests]
    assert result.hit_tokens.tolist() == [r.hit for r in requests]
    timeout = reference.timeout or 1 << 62
    assert result.finish_ps[result.is_finished].tolist() == [
        r.finish for r in requests if r.is_done and r.finish - r.arrival <= timeout
    ]


@pytest.mark.parametrize("seed", range(150))
def test_v1_agrees_with_the_reference_on_every_step_and_request(seed: int) -> None:
    """Times, preemptions and prefix hits equal those of the plain scheduler, to the picosecond."""
    compare(*random_case(seed))


@pytest.mark.parametrize("seed", range(80))
def test_reserved_answers_agree_with_the_reference(seed: int) -> None:
    """So does a scheduler that takes the blocks of prompt and answer at admission; nobody is ever preempted."""
    tables, limits, workload = random_case(seed)
    reserving = replace(limits, reserves_output=True)
    compare(tables, reserving, workload)
    assert not run_replicas(tables, reserving, workload).preemptions.any()


@pytest.mark.parametrize("seed", range(80))
def test_prompts_that_wait_for_company_agree_with_the_reference(seed: int) -> None:
    """So does one that holds prompts back while sequences decode, until a step has tokens enough or steps went by."""
    tables, limits, workload = random_case(seed)
    budget = max(limits.max_num_batched_tokens, 200)
    waiting = replace(
        limits,
        reserves_output=seed % 3 > 0,
        enable_chunked_prefill=False,
        max_num_batched_tokens=budget,
        batch_wait_iters=1 + seed % 20,
        batch_wait_tokens=budget * (1 + seed % 5) // 5,
        long_prefill_token_threshold=0,
    )
    tables = linear_tables(
        max_num_seqs=limits.max_num_seqs, max_num_batched_tokens=budget, step_ps=5_000, token_ps=90, host_step_ps=7_000
    )
    compare(tables, waiting, workload)


@pytest.mark.parametrize("policy", ["vllm-v0", "orca"])
@pytest.mark.parametrize("seed", range(40))
def test_other_policies_agree_with_the_reference(seed: int, policy: PolicyName) -> None:
    """So do V0, prompts first or chunked, and Orca with its reserved blocks."""
    tables, limits, workload = random_case(seed)
    compare(tables, replace(limits, policy=policy, enable_prefix_caching=False), workload)


@pytest.mark.parametrize("seed", range(60))
def test_a_capped_client_agrees_with_slots_that_are_promised(seed: int) -> None:
    """A client with a rate and a concurrency sends as one whose slots each wait for the next request in line."""
    tables, limits, workload = random_case(seed)
    concurrency = 1 + seed % 7
    compare(tables, limits, replace(workload, client=CappedLoop(concurrency=concurrency)))


@pytest.mark.parametrize("seed", range(120))
def test_a_client_that_gives_up_agrees_with_the_reference(seed: int) -> None:
    """A request that is not answered by its time-out leaves queue, batch and cache there, under any kind of client."""
    tables, limits, workload = random_case(seed)
    run = run_replicas(tables, limits, workload)
    took = np.sort((run.finish_ps - run.arrival_ps)[run.is_finished])
    timeout_s = max(1, int(took[len(took) * (1 + seed % 4) // 5])) * 1e-12 if len(took) else 1e-9
    client = CappedLoop(concurrency=1 + seed % 5) if seed % 3 == 0 else workload.client
    late = replace(workload, client=client, client_timeout_s=timeout_s)
    compare(tables, limits, late)
    stepped = run_replicas(tables, limits, late, leap=False)
    leapt = run_replicas(tables, limits, late)
    assert stepped.status.tolist() == leapt.status.tolist()
    assert stepped.finish_ps.tolist() == leapt.finish_ps.tolist()


@pytest.mark.parametrize("policy", ["vllm-v0", "orca", "sglang"])
@pytest.mark.parametrize("seed", range(25))
def test_clients_give_up_under_every_policy(seed: int, policy: PolicyName) -> None:
    """Every request is answered or given up, a leap equals its steps, and who waits for ever loses nobody."""
    tables, limits, workload = random_case(seed)
    own = replace(limits, policy=policy, enable_prefix_caching=False, enable_chunked_prefill=policy != "orca")
    own = in_whole_blocks(own) if policy == "sglang" else own
    whole = run_replicas(tables, own, workload)
    took = np.sort((whole.finish_ps - whole.arrival_ps)[whole.is_finished])
    if not len(took):
        return
    half = replace(workload, client_timeout_s=max(1, int(took[len(took) // 2])) * 1e-12)
    leapt, stepped = run_replicas(tables, own, half), run_replicas(tables, own, half, leap=False)
    assert leapt.finish_ps.tolist() == stepped.finish_ps.tolist()
    assert leapt.status.tolist() == stepped.status.tolist()
    patient = run_replicas(tables, own, replace(workload, client_timeout_s=1.0))
    assert patient.finish_ps.tolist() == whole.finish_ps.tolist()
    assert patient.status.tolist() == whole.status.tolist()


def clients_times(seed: int, client: OpenLoop | ClosedLoop | CappedLoop, *, at_once: bool) -> list[list[int]]:
    tables, limits, workload = random_case(seed)
    arrival_s = np.zeros(len(workload)) if at_once else workload.arrival_s
    run = run_replicas(
        tables, replace(limits, frontend_gap_s=0.0), replace(workload, client=client, arrival_s=arrival_s)
    )
    return np.column_stack([run.arrival_ps, run.first_token_ps, run.finish_ps]).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_a_capped_client_lies_between_the_open_and_the_closed_loop(seed: int) -> None:
    """With slots for all it is the open loop, with everything due at once the closed one, to the picosecond."""
    wide = clients_times(seed, CappedLoop(concurrency=10**6), at_once=False)
    assert wide == clients_times(seed, OpenLoop(), at_once=False)
    for concurrency in (1, 3):
        capped = clients_times(seed, CappedLoop(concurrency=concurrency), at_once=True)
        assert capped == clients_times(seed, ClosedLoop(concurrency=concurrency), at_once=True)


def test_random_cases_reach_the_rare_rules() -> None:
    """Among the cases above are preemptions, prefix hits and rejections, each in many."""
    preempted = hits = rejected = 0
    for seed in range(150):
        tables, limits, workload = random_case(seed)
        result = run_replicas(tables, limits, workload)
        preempted += bool(result.preemptions.any())
        hits += bool(result.hit_tokens.any())
        rejected += bool(result.rejections())
    assert min(preempted, hits, rejected) > 30


def test_leaping_equals_stepping_event_by_event() -> None:
    """On 1,000 random workloads a leap leaves the same log, times and sums as single steps, bit for bit."""
    for seed in range(1000):
        check_leaps(*random_case(seed))


@pytest.mark.parametrize("router", ["round_robin", "vllm", "least_outstanding", "prefix"])
def test_replicas_leap_as_they_step_under_every_router(router: RouterName) -> None:
    """Two or three replicas whose routing depends on each other's progress, on 100 workloads per router."""
    for seed in range(100):
        check_leaps(*random_case(seed), dp=2 + seed % 2, router=router)


@pytest.mark.parametrize("policy", ["vllm-v0", "sglang", "orca"])
def test_other_policies_leap_as_they_step(policy: PolicyName) -> None:
    """The same on 100 workloads each for the policies with prompts first or reserved blocks."""
    for seed in range(100):
        tables, limits, workload = random_case(seed)
        is_chunked = limits.enable_chunked_prefill or policy == "sglang"
        has_cache = limits.enable_prefix_caching and policy == "sglang"
        own = replace(limits, policy=policy, enable_prefix_caching=has_cache, enable_chunked_prefill=is_chunked)
        check_leaps(tables, in_whole_blocks(own) if policy == "sglang" else own, workload)


def check_leaps(
    tables: StepTables, limits: EngineLimits, workload: Workload, *, dp: int = 1, router: RouterName = "round_robin"
) -> None:
    """Assert that a run with leaps equals a run without."""
    leaping = run_replicas(tables, limits, workload, dp=dp, router=router, log=True)
    quiet = run_replicas(tables, limits, workload, dp=dp, router=router)
    stepping = run_replicas(tables, limits, workload, dp=dp, router=router, leap=False, log=True)
    assert leaping.log is not None
    assert stepping.log is not None
    # The queue length alone may lag within a leap.
    for replica in range(dp):
        own = [run.log[run.log["replica"] == replica] for run in (leaping, stepping) if run.log is not None]
        compared = [name for name in LogRow.dtype.names or () if name != "waiting"]
        assert own[0][compared].tolist() == own[1][compared].tolist()
    for name in (
        "arrival_ps",
        "scheduled_ps",
        "first_token_ps",
        "finish_ps",
        "status",
        "preemptions",
        "hit_tokens",
    ):
        assert (getattr(quiet, name) == getattr(stepping, name)).all(), name
    for name in (
        "steps",
        "busy_ps",
        "attention_ps",
        "host_ps",
        "decode_kv_reads",
        "peak_blocks",
        "batch_histogram",
    ):
        assert (getattr(quiet.replicas, name) == getattr(stepping.replicas, name)).all(), name
