"""SGLang's pipeline loop as plain Python, from the rules of its source: every slot walks its own batch in every turn.

Written from ``event_loop_pp``, ``get_next_batch_to_run``, ``PrefillAdder`` and ``retract_decode`` of SGLang 0.5.10,
without a prefix cache. It shares no code with the engine: requests stand in lists, KV is counted request by request,
the ratio of answers to come falls one step at a time.
"""

from collections import deque
from dataclasses import dataclass, field

from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.workload.workload import Workload
from tests.simulator.pipeline_reference import Costs

FIRST_RATIO = 0.7
LEAST_RATIO = FIRST_RATIO * 0.14
DECAY = (FIRST_RATIO - LEAST_RATIO) / 600
SPARE_STEPS = 20


@dataclass(eq=False)
class Job:
    """One request."""

    number: int
    arrival: int
    prompt: int
    output: int
    computed: int = 0  # tokens with KV
    generated: int = 0  # output tokens the scheduler has seen
    waits: int = 0  # chunks under way that do not end its prompt
    is_over: bool = False
    is_aborted: bool = False
    scheduled: int = -1
    first: int = -1
    finish: int = -1
    retractions: int = 0

    @property
    def lacking(self) -> int:
        """Tokens of its prompt, and of the answer a retraction left it, without KV."""
        return self.prompt + self.generated - self.computed


@dataclass(eq=False)
class Batch:
    """A micro-batch under way: its requests, when it is back, and the one whose prompt it does not end."""

    jobs: list[Job]
    is_prefill: bool
    end: int
    cut: Job | None = None


@dataclass(eq=False)
class Slot:
    """What belongs to one micro-batch."""

    running: list[Job] = field(default_factory=list)
    is_full: bool = False
    under_way: Batch | None = None
    last: Batch | None = None


class Adder:
    """What a step of prompts may still take."""

    def __init__(self, limits: EngineLimits, free: int, running: list[Job], ratio: float) -> None:
        self.page = limits.block_size
        self.free = free
        self.reserved = sum(min(job.output - job.generated, 4096) * ratio for job in running)
        self.now = 0
        self.inputs = max(limits.max_prefill_tokens, limits.max_num_batched_tokens)
        self.chunk = limits.max_num_batched_tokens
        self.jobs: list[tuple[Job, int]] = []
        self.cut: Job | None = None

    @property
    def room(self) -> float:
        """Tokens of KV left beside answers to come."""
        return self.free - self.reserved

    def paged(self, tokens: int) -> int:
        """Tokens in whole pages."""
        return -(-tokens // self.page) * self.page

    def take(self, job: Job, tokens: int, answer: int) -> None:
        """Take tokens of a prompt."""
        self.jobs.append((job, tokens))
        self.reserved += self.paged(tokens) + answer + self.page
        self.now += self.paged(tokens) + self.page
        self.inputs -= self.paged(tokens)
        self.chunk -= self.paged(tokens)

    def go_on(self, job: Job) -> None:
        """Take the next chunk of the prompt that is partly computed."""
        most = min(self.chunk, int(self.room))
        if most <= 0:
            most = self.chunk
        self.cut = job if job.lacking > most else None
        tokens = min(job.lacking, most)
        self.take(job, tokens, 0 if self.cut else min(job.output, 4096))

    def add(self, job: Job) -> str:
        """Take a request of the queue, if it fits: ``go on``, ``full`` or ``stop``."""
        if job.lacking + min(job.output - job.generated, 4096) >= self.room:
            return "full"
        if self.paged(job.lacking) >= self.inputs and self.jobs:
            return "stop"
        if self.paged(job.lacking) <= self.chunk:
            self.take(job, job.lacking, min(job.output, 4096))
        else:
            tokens = self.chunk // self.page * self.page
            if tokens <= 0:
                return "stop"
            self.cut = job
            self.take(job, tokens, 0)
        if self.room <= 0 or self.free - self.now <= 0:
            return "full"
        return "go on" if self.inputs > 0 and self.chunk > 0 else "stop"


class Loop:
    """One replica: the scheduler of its first stage, and stages that run one after the other."""

    def __init__(self, limits: EngineLimits, costs: Costs, stages: int, workload: Workload) -> None:
        self.limits, self.costs, self.stages = limits, costs, stages
        columns = (workload.arrival_s - workload.arrival_s[0], workload.prompt_tokens, workload.output_tokens)
        self.jobs = [
            Job(i, round(float(arrival) * 1e12), int(prompt), int(output))
            for i, (arrival, prompt, output) in enumerate(zip(*columns, strict=True))
        ]
        self.future = deque(self.jobs)
        self.queue: list[Job] = []
        self.slots = [Slot() for _ in range(stages)]
        self.holders: set[Job] = set()  # of a row in the pool of requests
        self.partial: Job | None = None
        self.ratio = FIRST_RATIO
        self.stage_free = [0] * stages
        self.now = 0
        self.steps: list[tuple[int, int, int, int]] = []
        self.skipped_chunks = 0

    @property
    def pages_free(self) -> int:
        """Pages nobody holds."""
        return self.limits.num_gpu_blocks - sum(-(-job.computed // self.limits.block_size) for job in self.holders)

    def seats(self, slot: Slot) -> int:
        """Count the requests a step of prompts may hold."""
        share = max(1, self.limits.max_num_seqs // self.stages)
        return min(share - len(slot.running), self.limits.max_num_seqs - len(self.holders))

    def merge(self, slot: Slot) -> None:
        """Let the prompts of the slot's last micro-batch join its running batch."""
        last = slot.last
        if last is None or not last.is_prefill:
            return
        stay = [job for job in last.jobs if not job.is_over and job not in (last.cut, self.partial)]
        if len(stay) < len(last.jobs):
            slot.is_full = False
        if stay and not slot.running:
            slot.is_full = False  # the running batch is a new one
        slot.running += stay
        slot.last = None

    def prompts(self, slot: Slot) -> list[tuple[Job, int]]:
        """Form a step of prompts: chunks by request."""
        if (slot.is_full or not self.queue) and self.partial is None:
            return []
        if self.partial is not None and self.seats(slot) <= 0:
            slot.is_full = True
            self.skipped_chunks += 1
            return []
        free = self.pages_free * self.limits.block_size
        adder = Adder(self.limits, free, [job for job in slot.running if not job.is_over], self.ratio)
        if self.partial is not None:
            adder.go_on(self.partial)
        for job in list(self.queue):
            if len(adder.jobs) >= self.seats(slot):
                slot.is_full = True
            if slot.is_full:
                break
            found = adder.add(job)
            if adder.jobs and adder.jobs[-1][0] is job:
                self.queue.remove(job)
            if found != "go on":
                slot.is_full = slot.is_full or found == "full"
                break
        self.partial = adder.cut
        return adder.jobs

    def pages_needed(self, jobs: list[Job]) -> int:
        """Pages that one more token of each takes."""
        return sum(job.computed % self.limits.block_size == 0 for job in jobs)

    def decodes(self, slot: Slot) -> list[Job]:
        """Let the running batch decode, after retracting those for whom there is no room."""
        before = len(slot.running)
        if not before:
            return []
        slot.running = [job for job in slot.running if not job.is_over]
        if not slot.running:
            slot.is_full = False
            return []
        if self.pages_needed(slot.running) > self.pages_free:
            self.retract(slot)
        else:
            self.ratio = max(self.ratio - DECAY, LEAST_RATIO)
        if len(slot.running) < before:
            slot.is_full = False
        return slot.running

    def retract(self, slot: Slot) -> None:
        """Retract from the end of a running batch until the others fit; abort one that does not fit alone."""
        slot.running.sort(key=lambda job: (job.generated, -job.prompt), reverse=True)
        is_first = True
        while is_first or self.pages_needed(slot.running) > self.pages_free:
            if len(slot.running) == 1:
                break
            is_first = False
            job = slot.running.pop()
            self.holders.remove(job)
            job.computed = 0
            job.retractions += 1
            self.queue.append(job)
        if len(slot.running) == 1 and self.pages_needed(slot.running) > self.pages_free:
            job = slot.running.pop()
            self.holders.remove(job)
            job.is_over = job.is_aborted = True
            job.finish = self.now
        done = sum(job.generated for job in slot.running) + SPARE_STEPS * len(slot.running)
        self.ratio = min(1.0, done / (sum(job.output for job in slot.running) + 1))

    def launch(self, slot: Slot, chunks: list[tuple[Job, int]], decodes: list[Job]) -> None:
        """Send a micro-batch through the stages."""
        costs = self.costs
        decision = self.now
        tokens = sum(chunk for _, chunk in chunks) + len(decodes)
        duration = costs.step + costs.token * tokens + costs.seq * len(decodes)
        duration += costs.kv * sum(job.computed + 1 for job in decodes)
        ready = decision + costs.host
        first_start = end = 0
        for stage in range(self.stages):
            start = max(ready, self.stage_free[stage])
            end = self.stage_free[stage] = start + duration
            first_start = start if stage == 0 else first_start
            ready = end + costs.send
        for job, chunk in chunks:
            self.holders.add(job)
            job.scheduled = decision if job.scheduled < 0 else job.scheduled
            job.computed += chunk
            job.waits += job is self.partial
        for job in decodes:
            job.computed += 1
        jobs = [job for job, _ in chunks] + decodes
        slot.under_way = Batch(jobs, bool(chunks), end, self.partial if chunks else None)
        self.steps.append((decision, first_start, end, tokens))
        self.now += costs.host

    def see(self, slot: Slot) -> None:
        """Wait for a slot's micro-batch, if it has one under way, and take its results."""
        batch = slot.under_way
        if batch is None:
            return
        self.now = max(self.now, batch.end)
        for job in batch.jobs:
            if batch.is_prefill and job.waits > 0:
                job.waits -= 1
                continue
            job.generated += 1
            job.first = batch.end if job.first < 0 else job.first
            if job.generated == job.output:
                job.is_over = True
                job.finish = batch.end
                self.holders.remove(job)
        slot.last, slot.under_way = batch, None

    def run(self) -> None:
        """Run the whole workload, round after round."""
        while True:
            is_idle = True
            for number, slot in enumerate(self.slots):
                while self.future and self.future[0].arrival <= self.now:
                    self.queue.append(self.future.popleft())
                self.merge(slot)
                chunks = self.prompts(slot)
                decodes = [] if chunks else self.decodes(slot)
                if chunks or decodes:
                    is_idle = False
                    self.launch(slot, chunks, decodes)
                self.see(self.slots[(number + 1) % self.stages])
            if not is_idle:
                continue
            self.ratio = FIRST_RATIO
            if not self.queue and not self.holders:
                if not self.future:
                    return
                self.now = max(self.now, self.future[0].arrival)
