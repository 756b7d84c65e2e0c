"""Speculative decoding: by hand, against a plain scheduler written from the rules, and in the mean."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import StepTables, linear_tables
from simulator.workload.workload import PrefixBlocks, Workload

MS = 10**9
LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=8,
    max_num_batched_tokens=256,
    max_model_len=4096,
    block_size=16,
    num_gpu_blocks=2000,
    num_speculative_tokens=3,
    speculative_acceptance=0.7,
    async_scheduling=False,
)


def tables(**costs: int) -> StepTables:
    """Return linear costs for up to eight sequences with up to three drafts."""
    return linear_tables(
        max_num_seqs=8, max_num_batched_tokens=256, drafts=3, **({"step_ps": MS, "token_ps": 0} | costs)
    )


def workload(requests: list[tuple[float, int, int]]) -> Workload:
    """Make requests of (arrival in ms, prompt, output)."""
    return Workload(
        name="drafts",
        arrival_s=np.array([arrival * 1e-3 for arrival, _, _ in requests]),
        prompt_tokens=np.array([prompt for _, prompt, _ in requests]),
        output_tokens=np.array([output for _, _, output in requests]),
    )


def decode_steps(result: EngineResult) -> int:
    """Count the steps without prefill."""
    return int(result.replicas.decode_steps.sum())


@pytest.mark.parametrize(("acceptance", "steps"), [(0.0, 12), (1.0, 3)])
def test_no_and_every_draft_accepted_by_hand(acceptance: float, steps: int) -> None:
    """Twelve tokens after the first take twelve steps of one token, or three of four."""
    limits = replace(LIMITS, speculative_acceptance=acceptance)
    result = run_replicas(tables(), limits, workload([(0.0, 10, 13)]))
    assert decode_steps(result) == steps
    assert result.finish_ps.tolist() == [(1 + steps) * MS]
    assert result.replicas.draft_tokens.tolist() == [3 * steps]
    assert result.replicas.accepted_tokens.tolist() == [12 - steps]


def test_the_cost_of_a_step_by_hand() -> None:
    """Two sequences of 1 + 3 tokens: 8 tokens, 8 sampled rows, 2 sequences over their own KV, and the draft model."""
    limits = replace(LIMITS, speculative_acceptance=1.0, draft_step_s=2e-3)
    costs = tables(token_ps=10**6, sample_seq_ps=10**7, decode_seq_ps=10**8, decode_kv_ps=10**3)
    result = run_replicas(costs, limits, workload([(0.0, 10, 5), (0.0, 20, 5)]), log=True)
    assert result.log is not None
    first, second = (result.log["end_ps"] - result.log["start_ps"]).tolist()
    assert first == MS + 30 * 10**6 + 2 * 10**7 + 2 * MS
    assert second == MS + 8 * 10**6 + 8 * 10**7 + 2 * 10**8 + (14 + 24) * 10**3 + 2 * MS
    assert result.log["decode_kv"][1] == 14 + 24
    assert result.replicas.draft_ps.tolist() == [4 * MS]


@pytest.mark.parametrize("acceptance", [0.3, 0.7, 0.9])
def test_mean_tokens_per_step_is_the_closed_form(acceptance: float) -> None:
    """Over some 10,000 steps: (1 - a^4) / (1 - a), within four standard errors."""
    limits = replace(LIMITS, speculative_acceptance=acceptance)
    result = run_replicas(tables(), limits, workload([(0.0, 10, 2000)] * 8))
    totals = result.replicas
    rows = int(totals.decode_tokens[0] - totals.draft_tokens[0])
    powers = acceptance ** np.arange(1, 4)
    deviation = np.sqrt((2 * np.arange(1, 4) - 1) @ powers - powers.sum() ** 2)
    expected = (1 - acceptance**4) / (1 - acceptance)
    assert 1 + int(totals.accepted_tokens[0]) / rows == pytest.approx(expected, abs=4 * deviation / np.sqrt(rows))


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("output", "drafted"), [(1, 0), (2, 1), (5, 2)])
def test_the_draft_model_rests_where_nobody_verifies(output: int, drafted: int, *, is_async: bool) -> None:
    """A prompt of two chunks: no drafts after the first, nor after the step that surely gives the last token."""
    limits = replace(
        LIMITS, async_scheduling=is_async, speculative_acceptance=1.0, draft_step_s=2e-3, skips_unused_drafts=True
    )
    result = run_replicas(tables(), limits, workload([(0.0, 300, output)]))
    assert result.replicas.draft_ps.tolist() == [drafted * 2 * MS + (is_async and output == 5) * 2 * MS]
    always = run_replicas(tables(), replace(limits, skips_unused_drafts=False), workload([(0.0, 300, output)]))
    assert always.replicas.draft_ps.tolist() == [int(always.replicas.steps[0]) * 2 * MS]


def test_no_accepted_draft_and_free_drafts_are_plain_decoding() -> None:
    """Drafts that cost nothing and are all wrong leave every time as the plain engine has it, asynchronous or not."""
    rng = np.random.default_rng(3)
    arrivals, prompts, outputs = np.cumsum(rng.exponential(4, 60)), rng.integers(1, 25, 60), rng.integers(1, 60, 60)
    requests = list(zip(arrivals.tolist(), prompts.tolist(), outputs.tolist(), strict=True))
    costs = tables(kv_read_ps=10**6)
    for is_async in (False, True):
        limits = replace(LIMITS, speculative_acceptance=0.0, async_scheduling=is_async)
        drafted = run_replicas(costs, limits, workload(requests))
        plain = run_replicas(costs, replace(limits, num_speculative_tokens=0), workload(requests))
        assert drafted.first_token_ps.tolist() == plain.first_token_ps.tolist()
        assert drafted.finish_ps.tolist() == plain.finish_ps.tolist()


def test_what_is_accepted_depends_on_the_request_alone() -> None:
    """A request takes as many steps alone as in a batch, and another seed gives another number."""
    lone = run_replicas(tables(), LIMITS, workload([(0.0, 10, 200)]))
    batch = run_replicas(tables(), LIMITS, workload([(0.0, 10, 200)] + [(0.0, 10, 500)] * 3))
    other = run_replicas(tables(), replace(LIMITS, speculative_seed=1), workload([(0.0, 10, 200)]))
    assert batch.finish_ps[0] == lone.finish_ps[0] != other.finish_ps[0]


def test_an_asynchronous_scheduler_runs_an_unforeseen_end_once_more() -> None:
    """All drafts accepted: the answer of 5 ends in the second step, which a third, already scheduled, follows."""
    limits = replace(LIMITS, speculative_acceptance=1.0, async_scheduling=True)
    result = run_replicas(tables(), limits, workload([(0.0, 10, 5)]))
    assert result.finish_ps.tolist() == [2 * MS]
    assert result.replicas.last_end_ps.tolist() == [3 * MS]
    # With no draft to come beyond the last token the end is known in time.
    foreseen = run_replicas(tables(), limits, workload([(0.0, 10, 2)]))
    assert foreseen.replicas.last_end_ps.tolist() == [2 * MS]


@dataclass(eq=False)
class Request:
    """One request of the reference."""

    number: int
    arrival: int
    prompt: int
    output: int
    computed: int = 0
    expected: int = 0
    generated: int = 0
    blocks: int = 0
    preemptions: int = 0
    first: int = -1
    finish: int = -1
    decodes: bool = False
    surplus: bool = False


def mix(x: int) -> int:
    """Finalise splitmix64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def accepted(limits: EngineLimits, request: Request) -> int:
    """Draw the accepted drafts of a request at its position."""
    stride = 0x9E3779B97F4A7C15
    stream = mix((limits.speculative_seed + (request.number + 1) * stride) % 2**64)
    draw = mix((stream + (request.generated + 1) * stride) % 2**64) % 2**62
    powers = [limits.speculative_acceptance**i for i in range(1, limits.num_speculative_tokens + 1)]
    return sum(draw < int(power * 2**62) for power in powers)


class Reference:
    """One replica, request by request; a step costs a constant and something per token."""

    def __init__(self, limits: EngineLimits, requests: Workload, step: int, token: int, rank: int = 0) -> None:
        self.limits, self.step, self.token = limits, step, token
        self.requests = [
            Request(i, round(float(arrival) * 1e12), int(prompt), int(output))
            for i, (arrival, prompt, output) in enumerate(
                zip(
                    requests.arrival_s - requests.arrival_s[0],
                    requests.prompt_tokens,
                    requests.output_tokens,
                    strict=True,
                )
            )
        ]
        owners = np.zeros(len(requests), dtype=np.int64) if requests.replica is None else requests.replica
        self.future = deque(request for request in self.requests if owners[request.number] == rank)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.free = limits.num_gpu_blocks
        self.steps: list[tuple[int, int, int]] = []

    def blocks_for(self, tokens: int) -> int:
        """Blocks for a number of tokens."""
        return -(-tokens // self.limits.block_size)

    def leave(self, request: Request) -> None:
        """Give up slot and blocks."""
        self.running.remove(request)
        self.free += request.blocks
        request.blocks = 0

    def grow(self, request: Request, tokens: int) -> bool:
        """Hold blocks for so many tokens, preempting from the tail; False if the request itself had to go."""
        wanted = self.blocks_for(min(tokens, self.limits.max_model_len))
        while wanted - request.blocks > self.free:
            victim = self.running[-1]
            self.leave(victim)
            victim.preemptions += 1
            self.preempted = True
            if victim.finish < 0:
                victim.computed, victim.decodes = 0, False
                self.waiting.appendleft(victim)
            if victim is request:
                return False
        extra = max(0, wanted - request.blocks)
        self.free -= extra
        request.blocks += extra
        return True

    def schedule(self) -> list[tuple[Request, int]]:
        """Take one decision."""
        limits, drafts = self.limits, self.limits.num_speculative_tokens
        left = limits.max_num_batched_tokens
        batch: list[tuple[Request, int]] = []
        self.preempted = False
        at = 0
        while at < len(self.running) and left:
            request = self.running[at]
            at += 1
            if request.finish >= 0:
                chunk = min(1 + drafts, left) if request.surplus else 0
                request.surplus = False
            elif request.decodes:
                chunk = min(1 + drafts, left, limits.max_model_len - 1 - request.computed)
                if not self.grow(request, request.expected + chunk + drafts):
                    break
            else:
                chunk = min(request.prompt + request.generated - request.computed, left)
                if not self.grow(request, request.computed + chunk + drafts):
                    break
            if chunk:
                batch.append((request, chunk))
                left -= chunk
        while not self.preempted and self.waiting and left and len(self.running) < limits.max_num_seqs:
            request = self.waiting[0]
            target = request.prompt + request.generated
            if self.blocks_for(target) > self.free:
                break
            self.running.append(self.waiting.popleft())
            chunk = min(target, left)
            request.blocks = self.blocks_for(chunk)
            self.free -= request.blocks
            batch.append((request, chunk))
            left -= chunk
        return batch

    def apply(self, batch: list[tuple[Request, int]], end: int) -> None:
        """Count the tokens of a step."""
        chunks = dict(batch)
        for request in self.running:
            chunk = chunks.get(request, 0)
            if request.finish >= 0:
                continue
            if request.decodes:
                gained = 0
                request.expected = request.computed + chunk
                lacking = request.output - request.generated
                if chunk:
                    gained = min(1 + min(accepted(self.limits, request), chunk - 1), lacking)
                request.computed += gained
                request.generated += gained
                request.surplus = self.limits.async_scheduling and lacking > 1
            else:
                request.computed += chunk
                if request.computed < request.prompt + request.generated:
                    continue
                request.generated += 1
                request.decodes = True
                request.surplus = False
                request.expected = request.computed
                request.first = end if request.first < 0 else request.first
            if not self.limits.async_scheduling:
                request.expected = request.computed
            if request.generated == request.output:
                request.finish = end

    def prepare(self, decision: int) -> None:
        """Take in who has arrived, and release who is known to be done."""
        while self.future and self.future[0].arrival <= decision:
            self.waiting.append(self.future.popleft())
        for request in [r for r in self.running if 0 <= r.finish <= decision]:
            self.leave(request)


def run_together(ranks: list[Reference]) -> None:
    """Run the whole workload on ranks that step together: a step takes as long as that of the most tokens."""
    is_async = ranks[0].limits.async_scheduling
    decision = end = 0
    while True:
        batches = []
        for rank in ranks:
            rank.prepare(decision)
            batches.append(rank.schedule())
        if any(batches):
            start = max(decision, end)
            tokens = [sum(chunk for _, chunk in batch) for batch in batches]
            end = start + ranks[0].step + ranks[0].token * max(tokens)
            for rank, batch, own in zip(ranks, batches, tokens, strict=True):
                rank.apply(batch, end)
                if batch:
                    rank.steps.append((start, own, len(batch)))
            decision = start if is_async else end
        elif decision < end:
            decision = end
        elif not any(rank.preempted for rank in ranks):
            arrivals = [rank.future[0].arrival for rank in ranks if rank.future]
            if not arrivals:
                return
            decision = min(arrivals)


def compare(seed: int, ranks: int) -> EngineResult:
    """Assert that the engine agrees with the reference on a random workload under tight limits; returns its result."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    drafts = int(rng.integers(1, 4))
    block = int(rng.choice([1, 4, 16]))
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=int(rng.integers(1, 9)),
        max_num_batched_tokens=int(rng.integers(drafts + 1, 120)),
        max_model_len=int(rng.choice([100, 200])),
        block_size=block,
        num_gpu_blocks=int(rng.integers(110, 500)) // block + 1,
        async_scheduling=bool(rng.random() < 0.5),
        num_speculative_tokens=drafts,
        speculative_acceptance=float(rng.choice([0.0, 0.5, 0.8, 1.0])),
        speculative_seed=seed,
    )
    prompt = rng.integers(1, 60, n)
    requests = Workload(
        name=f"random {seed}",
        arrival_s=np.cumsum(rng.exponential(rng.choice([1e-9, 30e-9]), n)),
        prompt_tokens=prompt,
        output_tokens=rng.integers(1, 40, n),
        replica=rng.choice(ranks, n, p=rng.dirichlet(np.full(ranks, 0.7))) if ranks > 1 else None,
    )
    references = [Reference(limits, requests, 5_000, 70, rank) for rank in range(ranks)]
    run_together(references)
    costs = linear_tables(
        max_num_seqs=8, max_num_batched_tokens=256, drafts=3, step_ps=5_000, token_ps=70, padded_tokens=256
    )
    result = run_replicas(costs, limits, requests, attention_dp=ranks, log=True)
    assert result.log is not None
    totals = result.replicas
    for rank, reference in enumerate(references):
        log = result.log[result.log["replica"] == rank]
        rows = log["prefills"] + log["decodes"]
        assert list(zip(log["start_ps"].tolist(), rows.tolist(), strict=True)) == [
            (start, count) for start, _, count in reference.steps
        ]
        tokens = int(totals.prefill_tokens[rank] + totals.decode_tokens[rank])
        assert tokens == sum(tokens for _, tokens, _ in reference.steps)
    owners = [0] * n if requests.replica is None else requests.replica.tolist()
    known = [references[owner].requests[number] for number, owner in enumerate(owners)]
    assert result.first_token_ps.tolist() == [r.first for r in known]
    assert result.finish_ps.tolist() == [r.finish for r in known]
    assert result.preemptions.tolist() == [r.preemptions for r in known]
    assert result.log["free"].min() >= 0
    return result


@pytest.mark.parametrize("seed", range(80))
def test_the_engine_agrees_with_the_reference_on_every_step_and_request(seed: int) -> None:
    """Random workloads under tight limits: steps, times and preemptions are those of the plain scheduler."""
    compare(seed, 1)


@pytest.mark.parametrize("seed", range(80))
def test_ranks_with_drafts_agree_with_the_reference(seed: int) -> None:
    """So are those of two to four attention-data-parallel ranks that step together, some of them without requests."""
    compare(seed, 2 + seed % 3)


def test_a_share_for_each_position_is_what_is_accepted() -> None:
    """Over some 7,000 steps the first, second and third drafts are accepted in the shares stated, within 1.5 points."""
    shares = (0.8, 0.5, 0.3)
    limits = replace(LIMITS, speculative_acceptance=shares)
    totals = run_replicas(tables(), limits, workload([(0.0, 10, 2000)] * 8)).replicas
    rows = int(totals.decode_tokens[0] - totals.draft_tokens[0])
    assert int(totals.accepted_tokens[0]) / rows == pytest.approx(sum(shares), abs=0.045)
    powers = replace(LIMITS, speculative_acceptance=(0.5, 0.25, 0.125))
    alike = run_replicas(tables(), replace(LIMITS, speculative_acceptance=0.5), workload([(0.0, 10, 200)]))
    assert run_replicas(tables(), powers, workload([(0.0, 10, 200)])).finish_ps[0] == alike.finish_ps[0]


@pytest.mark.parametrize(
    ("acceptance", "message"),
    [
        ((0.8, 0.5), "2 shares for 3 drafts"),
        ((0.8, 0.5, 0.6), "cannot rise"),
        ((1.2, 0.5, 0.1), "each must be 0 to 1"),
        (1.5, "must be 0 to 1"),
    ],
)
def test_shares_that_contradict_the_drafts_are_refused(acceptance: float | tuple[float, ...], message: str) -> None:
    """One share for each draft of a step, none above the one before it."""
    with pytest.raises(UserError, match=message):
        run_replicas(tables(), replace(LIMITS, speculative_acceptance=acceptance), workload([(0.0, 10, 20)]))


def test_the_draft_model_runs_on_all_ranks_where_one_needs_it() -> None:
    """An answer of one token takes the draft model's time beside one of five on another rank, and none on its own."""
    limits = replace(LIMITS, speculative_acceptance=1.0, draft_step_s=2e-3, skips_unused_drafts=True)
    requests = replace(workload([(0.0, 10, 5), (0.0, 10, 1)]), replica=np.array([0, 1]))
    beside = run_replicas(tables(), limits, requests, attention_dp=2)
    alone = run_replicas(tables(), limits, workload([(0.0, 10, 1)]), attention_dp=2)
    assert beside.first_token_ps.tolist() == [3 * MS, 3 * MS]
    assert alone.first_token_ps.tolist() == [MS]


@pytest.mark.parametrize("acceptance", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("is_async", [False, True])
def test_reserved_answers_have_room_for_their_drafts(acceptance: float, is_async: bool) -> None:
    """With the blocks of prompt, answer and drafts taken at admission nobody is preempted, however few there are."""
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=8,
        max_num_batched_tokens=120,
        max_model_len=200,
        block_size=4,
        num_gpu_blocks=30,
        async_scheduling=is_async,
        num_speculative_tokens=3,
        speculative_acceptance=acceptance,
    )
    costs = linear_tables(max_num_seqs=8, max_num_batched_tokens=256, drafts=3, step_ps=5_000, token_ps=70)
    requests = workload([(0.0, 20 + 3 * at, 5 + at) for at in range(20)])
    assert run_replicas(costs, limits, requests).preemptions.any()
    reserving = run_replicas(costs, replace(limits, reserves_output=True), requests)
    assert not reserving.preemptions.any()
    assert reserving.is_finished.all()


@pytest.mark.parametrize("seed", range(20))
def test_all_blocks_come_back_with_shared_prefixes(seed: int) -> None:
    """After a crowded run with drafts and shared prefixes, a late request finds every block but its own free."""
    rng = np.random.default_rng(seed)
    n = 40
    family = rng.integers(0, 3, n)
    blocks = rng.integers(0, 6, n)
    limits = replace(
        LIMITS,
        block_size=4,
        num_gpu_blocks=int(rng.integers(30, 80)),
        enable_prefix_caching=True,
        async_scheduling=bool(rng.random() < 0.5),
    )
    # Requests of a family share the blocks that come before the first that is their own.
    ids = [int(family[i]) * 1000 + k if k < 4 else 10_000 + 10 * i + k for i in range(n) for k in range(blocks[i])]
    crowd = Workload(
        name=f"families {seed}",
        arrival_s=np.append(np.cumsum(rng.exponential(2e-3, n - 1)), 1e3),
        prompt_tokens=np.append((4 * blocks + 3)[:-1], 3),
        output_tokens=np.append(rng.integers(1, 40, n - 1), 2),
        prefix=PrefixBlocks(
            block_tokens=4, offsets=np.concatenate([[0], np.cumsum(blocks)]), ids=np.array(ids, dtype=np.int64)
        ),
    )
    result = run_replicas(tables(), limits, crowd, log=True)
    assert result.log is not None
    assert result.is_finished.all()
    assert result.log["free"].min() >= 0
    first_step = result.log[result.log["decision_ps"] >= result.arrival_ps[-1]][0]
    assert first_step["free"] == limits.num_gpu_blocks - 1
