"""Two pools as plain Python, straight from the rules: every rank walks its requests in every step, and nothing leaps.

It shares no code with the engine. At each turn it takes the earliest thing that can happen; of things at one time those
of the prefill pool come first, and in a pool messages from the other one, then arrivals, then decisions.
"""

from collections import deque
from dataclasses import dataclass, field

from simulator.engine.disaggregated import HandOver, Pool
from simulator.workload.workload import ClosedLoop, Workload

Q = 4096  # clock ticks per picosecond


@dataclass(eq=False)
class Job:
    """One request in one pool."""

    number: int
    prompt: int
    output: int
    sent: int = -1
    rank: "Rank | None" = None
    computed: int = 0
    generated: int = 0
    blocks: int = 0
    has_kv: bool = False  # decode pool: it came over the link and was not lost since
    first: int = -1
    finish: int = -1
    scheduled: int = -1
    kv_ready: int = -1
    preemptions: int = 0
    is_decoding: bool = False
    is_rejected: bool = False
    is_sent: bool = False  # prefill pool: its KV has left
    is_released: bool = False

    @property
    def tokens(self) -> int:
        """Prompt and generated tokens."""
        return self.prompt + self.generated


@dataclass(eq=False)
class Rank:
    """One scheduler."""

    number: int
    free: int
    running: list[Job] = field(default_factory=list)
    waiting: deque[Job] = field(default_factory=deque)
    offered: deque[Job] = field(default_factory=deque)
    receiving: int = 0
    finishes: list[int] = field(default_factory=list)  # times; a router counts those that have come
    taken: int = 0
    batch: list[tuple[Job, int, bool]] = field(default_factory=list)
    has_preempted: bool = False


@dataclass(eq=False)
class Replica:
    """Ranks that step together."""

    ranks: list[Rank]
    decision: int = 0
    key: int | None = None
    end: int = 0  # ticks


class Side:
    """One pool."""

    def __init__(self, pool: Pool, workload: Workload, *, is_prefill: bool) -> None:
        self.pool, self.is_prefill = pool, is_prefill
        limits = pool.limits
        self.ranks = [Rank(number=i, free=limits.num_gpu_blocks) for i in range(pool.schedulers)]
        width = pool.attention_dp
        self.replicas = [Replica(ranks=self.ranks[i * width : (i + 1) * width]) for i in range(pool.dp)]
        self.jobs = [
            Job(number=i, prompt=int(prompt), output=1 if is_prefill else max(1, int(output)))
            for i, (prompt, output) in enumerate(zip(workload.prompt_tokens, workload.output_tokens, strict=True))
        ]
        self.messages: list[tuple[int, int, int]] = []  # time, number, event
        self.arrivals: list[tuple[int, int]] = []  # time, number; -1: a slot of a closed loop
        self.turn = 0
        self.is_async = limits.async_scheduling

    def blocks_for(self, tokens: int) -> int:
        """Blocks for a number of tokens."""
        return -(-tokens // self.pool.limits.block_size)

    def whole(self, job: Job) -> int:
        """Blocks that a policy which reserves takes at once."""
        return self.blocks_for(job.prompt + job.output - 1)

    def replica_of(self, job: Job) -> Replica:
        """Return the replica of a job's rank."""
        assert job.rank is not None
        return self.replicas[job.rank.number // self.pool.attention_dp]

    def route(self, job: Job, time: int) -> None:
        """Pick a rank."""
        count = len(self.ranks)
        turn, self.turn = self.turn, (self.turn + 1) % count
        order = [self.ranks[(turn + i) % count] for i in range(count)]
        if self.pool.router == "least_outstanding":
            order.sort(key=lambda rank: rank.taken - sum(finish <= time for finish in rank.finishes))
        job.rank = order[0]
        job.rank.taken += 1

    def next_key(self) -> tuple[int, int, Replica | None]:
        """Time, kind and replica of what comes next in the pool."""
        found: list[tuple[int, int, int, Replica | None]] = []
        if self.messages:
            found.append((min(self.messages)[0], 0, 0, None))
        if self.arrivals:
            found.append((min(self.arrivals)[0], 1, 0, None))
        found += [(one.key, 2, i, one) for i, one in enumerate(self.replicas) if one.key is not None]
        time, kind, _, one = min(found, key=lambda entry: entry[:3], default=(1 << 62, 3, 0, None))
        return time, kind, one


class TwoPools:
    """Both pools and the client."""

    def __init__(
        self, prefill: Pool, decode: Pool, workload: Workload, transfer_ps: list[int], agreed: HandOver
    ) -> None:
        self.workload, self.transfer_ps, self.agreed = workload, transfer_ps, agreed
        self.first = Side(prefill, workload, is_prefill=True)
        self.second = Side(decode, workload, is_prefill=False)
        self.links = [0] * (prefill.schedulers + decode.schedulers)
        self.frontend = round(prefill.limits.frontend_s * 1e12)
        self.next_send = 0

    def run(self) -> None:
        """Serve the whole workload."""
        client, workload = self.workload.client, self.workload
        if isinstance(client, ClosedLoop):
            self.first.arrivals += [(self.frontend, -1)] * min(client.concurrency, len(workload))
        else:
            origin = workload.arrival_s[0]
            for job in self.first.jobs:
                if workload.after is None or workload.after[job.number] < 0:
                    job.sent = round(float(workload.arrival_s[job.number] - origin) * 1e12)
                    self.first.arrivals.append((job.sent + self.frontend, job.number))
        while True:
            first, second = self.first.next_key(), self.second.next_key()
            if first[1] == 3 and second[1] == 3:
                return
            side, (time, kind, one) = (self.first, first) if first[0] <= second[0] else (self.second, second)
            if kind == 0:
                self.hear(side, time)
            elif kind == 1:
                self.arrive(side, time)
            else:
                assert one is not None
                self.decide(side, one)

    def answered(self, number: int, time: int) -> None:
        """Let the client hear of an answer, or of a rejection."""
        workload = self.workload
        if isinstance(workload.client, ClosedLoop):
            self.first.arrivals.append((time + max(self.frontend, 1), -1 - time))
        if workload.after is not None:
            assert workload.think_s is not None
            for child in range(len(workload)):
                if workload.after[child] == number:
                    think = round(float(workload.think_s[child]) * 1e12)
                    self.first.jobs[child].sent = time + think
                    self.first.arrivals.append((time + max(think + self.frontend, 1), child))

    def arrive(self, side: Side, time: int) -> None:
        """Take the next arrival of a pool."""
        entry = min(side.arrivals, key=lambda entry: (entry[0], abs(entry[1])))
        side.arrivals.remove(entry)
        number = entry[1]
        if number < 0:
            if self.next_send == len(side.jobs):
                return
            number, self.next_send = self.next_send, self.next_send + 1
            side.jobs[number].sent = -1 - entry[1] if entry[1] < -1 else 0
        job = side.jobs[number]
        side.route(job, time)
        assert job.rank is not None
        last = job.prompt + job.output - 1
        limits = side.pool.limits
        if last + 1 > limits.max_model_len or side.blocks_for(last) > limits.num_gpu_blocks:
            job.is_rejected, job.finish = True, time
            job.rank.finishes.append(time)
            self.answered(number, time)
            if not side.is_prefill:
                self.cancel(number, time)
        elif not side.is_prefill:
            job.rank.offered.append(job)
            self.take_offers(job.rank, time)
        elif self.agreed.offers_first:
            self.second.arrivals.append((time, number))
        else:
            self.queue(side, job, time)

    def cancel(self, number: int, time: int) -> None:
        """Let the prefill pool know that the decode pool cannot run a request."""
        job = self.first.jobs[number]
        if self.agreed.offers_first:
            assert job.rank is not None
            job.rank.finishes.append(time)
        else:
            self.first.messages.append((time, number, 1))

    def queue(self, side: Side, job: Job, time: int) -> None:
        """Put a job into its rank's queue."""
        assert job.rank is not None
        if side.is_prefill:
            job.rank.waiting.append(job)
        else:
            self.insert(job.rank, job)
        self.wake(side.replica_of(job), time)

    @staticmethod
    def insert(rank: Rank, job: Job) -> None:
        """Put a job behind those that hold blocks, and before those that do not."""
        rank.waiting.insert(sum(other.has_kv for other in rank.waiting if other is not job), job)

    @staticmethod
    def wake(one: Replica, time: int) -> None:
        """Let an idle replica decide."""
        if one.key is None:
            one.decision = max(time, one.end // Q)
            one.key = one.decision

    def hear(self, side: Side, time: int) -> None:
        """Take the next message."""
        message = min(side.messages)
        side.messages.remove(message)
        _, number, event = message
        job = side.jobs[number]
        assert job.rank is not None
        if side.is_prefill and event == 0:
            self.queue(side, job, time)
        elif side.is_prefill:
            job.is_sent = True
            if job.is_released:
                job.rank.free += job.blocks
                if job.rank.waiting:
                    self.wake(side.replica_of(job), time)
        elif event == 0:
            self.send(job, time)
        else:
            job.rank.receiving -= 1
            job.has_kv = True
            self.queue(side, job, time)

    def take_offers(self, rank: Rank, time: int) -> None:
        """Take the blocks of offered requests in order while they are there."""
        side = self.second
        while rank.offered:
            job = rank.offered[0]
            need = side.whole(job) if side.pool.limits.reserves_output else side.blocks_for(job.prompt)
            others = len(rank.running) + len(rank.waiting) + rank.receiving
            kept = side.blocks_for(self.agreed.reserved_tokens * (others + 1)) if others else 0
            if need + kept > rank.free:
                return
            rank.offered.popleft()
            rank.free -= need
            job.blocks = need
            rank.receiving += 1
            if self.agreed.offers_first:
                self.first.messages.append((time + round(self.agreed.delay_s * 1e12), job.number, 0))
            else:
                self.send(job, time)

    def send(self, job: Job, time: int) -> None:
        """Send a request's KV when both links are free."""
        sender = self.first.jobs[job.number].rank
        assert sender is not None
        assert job.rank is not None
        ends = sender.number, len(self.first.ranks) + job.rank.number
        start = max(time, *(self.links[end] for end in ends))
        job.kv_ready = start + max(1, self.transfer_ps[job.number])
        for end in ends:
            self.links[end] = job.kv_ready
        self.second.messages.append((job.kv_ready, job.number, 1))
        self.first.messages.append((job.kv_ready, job.number, 1))

    def decide(self, side: Side, one: Replica) -> None:
        """Take one decision on all ranks of a replica, and run its step."""
        for rank in one.ranks:
            self.release(side, rank, one.decision)
        for rank in one.ranks:
            rank.has_preempted = False
            self.schedule(side, rank, one.decision)
        end = one.end // Q
        if not any(rank.batch for rank in one.ranks):
            if any(rank.has_preempted for rank in one.ranks) or one.decision < end:
                one.decision = max(one.decision, end)
                one.key = one.decision
                for rank in one.ranks:
                    self.release(side, rank, one.decision)
                return
            one.key = None
            return
        start = one.decision * Q if one.decision > end else one.end
        one.end = start + self.duration(side, one)
        one.decision = start // Q if side.is_async else one.end // Q
        for rank in one.ranks:
            self.count_tokens(side, rank, one.end // Q)
            self.release(side, rank, one.decision)
        one.key = one.decision

    def schedule(self, side: Side, rank: Rank, decision: int) -> None:
        """Plan one rank's step."""
        limits = side.pool.limits
        rank.batch = []
        if not side.is_prefill and self.agreed.passes_first_token:
            self.join(rank, decision)
        budget = limits.max_num_batched_tokens
        at = 0
        while at < len(rank.running) and budget:
            job = rank.running[at]
            at += 1
            chunk = 0 if job.finish >= 0 else min(job.tokens - job.computed, budget)
            if not chunk:
                continue
            need = 0 if limits.reserves_output else side.blocks_for(job.computed + chunk) - job.blocks
            while need > rank.free and self.preempt(rank) is not job:
                pass
            if job not in rank.running:
                break
            self.grow(rank, job, chunk, need)
            budget -= chunk
        if not rank.has_preempted:
            self.admit(side, rank, decision, budget)

    def admit(self, side: Side, rank: Rank, decision: int, budget: int) -> None:
        """Admit from the head of the queue until something does not fit."""
        limits = side.pool.limits
        while rank.waiting and budget and len(rank.running) < limits.max_num_seqs:
            job = rank.waiting[0]
            if job.has_kv:
                job.computed, need, chunk = job.prompt - 1, 0, 1
            else:
                chunk = min(job.tokens, budget)
                need = side.whole(job) if limits.reserves_output else side.blocks_for(chunk)
                gate = max(need, side.blocks_for(job.tokens)) if limits.reserve_full_isl else need
                if gate > rank.free:
                    return
            job.has_kv = False
            rank.waiting.popleft()
            rank.running.append(job)
            if job.scheduled < 0:
                job.scheduled = decision
            self.grow(rank, job, chunk, need)
            budget -= chunk

    def join(self, rank: Rank, decision: int) -> None:
        """Let those whose first token came along decode."""
        while rank.waiting and rank.waiting[0].has_kv:
            job = rank.waiting[0]
            if job.output > 1 and len(rank.running) >= self.second.pool.limits.max_num_seqs:
                return
            rank.waiting.popleft()
            job.has_kv = False
            job.computed, job.generated, job.is_decoding = job.prompt, 1, True
            job.first = decision
            if job.output == 1:
                rank.free += job.blocks
                self.finish(self.second, job, decision)
            else:
                rank.running.append(job)

    @staticmethod
    def grow(rank: Rank, job: Job, chunk: int, blocks: int) -> None:
        """Plan a chunk on new blocks."""
        rank.free -= blocks
        job.blocks += blocks
        rank.batch.append((job, chunk, job.is_decoding))
        job.computed += chunk

    def preempt(self, rank: Rank) -> Job:
        """Preempt the last running request; one that is over only loses its blocks."""
        job = rank.running.pop()
        rank.free += job.blocks
        rank.has_preempted = True
        job.blocks = 0
        job.preemptions += 1
        if job.finish < 0:
            job.computed, job.is_decoding = 0, False
            self.insert(rank, job)
        return job

    def release(self, side: Side, rank: Rank, decision: int) -> None:
        """Let go of those whose last token is seen."""
        for job in list(rank.running):
            if 0 <= job.finish <= decision:
                rank.running.remove(job)
                job.is_released = True
                if not side.is_prefill or job.is_sent:
                    rank.free += job.blocks
        if not side.is_prefill:
            self.take_offers(rank, decision)

    def finish(self, side: Side, job: Job, time: int) -> None:
        """Note that a job has all its tokens."""
        assert job.rank is not None
        job.finish = time
        job.rank.finishes.append(time)
        if not side.is_prefill:
            self.answered(job.number, time)
        elif self.agreed.offers_first:
            self.second.messages.append((time, job.number, 0))
        else:
            self.second.arrivals.append((time + round(self.agreed.delay_s * 1e12), job.number))

    def count_tokens(self, side: Side, rank: Rank, end: int) -> None:
        """Give a token to everybody whose prompt is computed."""
        for job, _, _ in rank.batch:
            if job.computed == job.tokens:
                job.generated += 1
                job.is_decoding = True
                if job.first < 0:
                    job.first = end
                if job.generated == job.output:
                    self.finish(side, job, end)

    def duration(self, side: Side, one: Replica) -> int:
        """Ticks of a step under linear tables: tokens of the busiest rank, and the slowest rank's own work."""
        tables = side.pool.tables
        most = max(sum(chunk for _, chunk, _ in rank.batch) for rank in one.ranks)
        rows = max(len(rank.batch) for rank in one.ranks)
        own = 0
        for rank in one.ranks:
            decodes = [job for job, _, is_decode in rank.batch if is_decode]
            pairs = sum(sum(range(j.computed - n + 1, j.computed + 1)) for j, n, d in rank.batch if not d)
            ps = int(tables.sample_ps[0, len(rank.batch)]) + pairs * int(tables.prefill_pair_ps[0, 1] >> 20)
            ticks = ps * Q
            if decodes:
                per_seq = int(tables.decode_ps[0, 0, 0])
                per_kv = int(tables.decode_ps[0, 0, 1] - per_seq) * Q // int(tables.decode_kv_knots[1])
                ticks += per_seq * len(decodes) * Q + per_kv * sum(job.computed for job in decodes)
            own = max(own, ticks)
        ticks = int(tables.token_mixed_ps[0, most]) * Q + own
        host = (tables.host_step_ps + tables.host_seq_ps * rows) * Q
        return max(ticks, host) if side.is_async else ticks + host
