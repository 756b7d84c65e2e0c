"""Images in the engine: which step runs the encoder, and what it may not run there, against a plain scheduler."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import EncoderTables, StepTables, linear_tables
from simulator.workload.items import EncoderItems
from simulator.workload.workload import Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=4,
    max_num_batched_tokens=50,
    max_model_len=400,
    block_size=10,
    num_gpu_blocks=40,
    async_scheduling=False,
    encoder_budget=50,
)
KNOTS = np.array([0, 1 << 20])


def _tables(limits: EngineLimits, *, launch_ps: int = 0, ranks: int = 1, stages: int = 1) -> StepTables:
    """Let a step take 1,000 ps and 10 for each token, the encoder 7 per token and 2 per pair."""
    tables = linear_tables(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        step_ps=1000,
        token_ps=10,
        stages=stages,
        drafts=limits.num_speculative_tokens,
    )
    encoder = EncoderTables(
        token_knots=KNOTS, token_ps=KNOTS * 7, pair_knots=KNOTS, pair_ps=KNOTS * 2, launch_ps=launch_ps, ranks=ranks
    )
    return replace(tables, encoder=encoder)


def _items(requests: list[list[tuple[int, int]]]) -> EncoderItems:
    """Lay out items that reach from the first to the second token; each runs twice as many tokens, which see 5 each."""
    starts, ends = ([item[side] for request in requests for item in request] for side in (0, 1))
    length = np.array(ends, dtype=np.int64) - np.array(starts, dtype=np.int64)
    return EncoderItems(
        offsets=np.concatenate([[0], np.cumsum([len(request) for request in requests])]).astype(np.int64),
        start=np.array(starts, dtype=np.int64),
        end=np.array(ends, dtype=np.int64),
        embeds=length,
        tokens=2 * length,
        pairs=10 * length,
    )


def _workload(requests: list[tuple[int, int, list[tuple[int, int]]]], arrival_ps: list[int] | None = None) -> Workload:
    prompts, outputs, items = zip(*requests, strict=True)
    return Workload(
        name="with images",
        arrival_s=np.array(arrival_ps or [0] * len(requests)) * 1e-12,
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        items=_items(list(items)),
    )


def _steps(result: EngineResult) -> list[tuple[int, int, int, int]]:
    """Each step as (start in ps, prefill tokens, prefilling requests, decoding requests)."""
    assert result.log is not None
    return [tuple(row) for row in result.log[["start_ps", "prefill_tokens", "prefills", "decodes"]].tolist()]


def test_the_encoder_runs_before_the_step_that_reaches_the_image() -> None:
    """30 image tokens behind 40 of text: the first step stops in front, since the budget of 20 lets nothing else in."""
    result = run_replicas(
        _tables(LIMITS), replace(LIMITS, encoder_budget=30), _workload([(80, 1, [(40, 70)])]), log=True
    )
    # 50 tokens, of which 10 are of the image: the encoder runs it whole, 60 tokens and 300 pairs.
    assert _steps(result) == [(0, 50, 1, 0), (1000 + 500 + 7 * 60 + 2 * 300, 30, 1, 0)]
    assert result.replicas.encoder_ps.tolist() == [7 * 60 + 2 * 300]
    assert result.replicas.items.tolist() == [1]


def test_a_chunk_ends_before_an_image_the_budget_has_no_room_for() -> None:
    """Two images of 20 tokens and a budget of 30: the second waits for the next step, its tokens with it."""
    limits = replace(LIMITS, encoder_budget=30)
    result = run_replicas(_tables(limits), limits, _workload([(45, 1, [(0, 20), (20, 40)])]), log=True)
    assert [row[1] for row in _steps(result)] == [20, 25]


def test_images_may_be_kept_whole() -> None:
    """Where no chunk may end within an image, it ends before it, unless the chunk begins with the image."""
    limits = replace(LIMITS, keeps_items_whole=True, max_num_batched_tokens=30)
    result = run_replicas(_tables(limits), limits, _workload([(60, 1, [(10, 55)])]), log=True)
    assert [row[1] for row in _steps(result)] == [10, 30, 20]


def test_the_cache_holds_what_a_request_has_begun() -> None:
    """Half an image keeps its 40 rows of the cache of 50: another request's image of 20 waits until it is through."""
    limits = replace(LIMITS, max_num_batched_tokens=30)
    workload = _workload([(60, 1, [(10, 50)]), (40, 1, [(0, 20)])])
    assert [row[1:3] for row in _steps(run_replicas(_tables(limits), limits, workload, log=True))] == [
        (30, 1),  # 20 tokens of the image
        (30, 1),  # the rest of the prompt, and with it the image's last token
        (30, 1),
        (10, 1),
    ]


def test_the_host_is_a_floor_and_ranks_share_whole_items() -> None:
    """Starting kernels takes 5,000 ps at least; spread over two ranks, three equal items take as long as two."""
    workload = _workload([(50, 1, [(0, 10), (10, 20), (20, 30)])])
    slow = run_replicas(_tables(LIMITS, launch_ps=5000), LIMITS, workload)
    assert slow.replicas.encoder_ps.tolist() == [5000]
    spread = run_replicas(_tables(LIMITS, ranks=2), LIMITS, workload)
    assert spread.replicas.encoder_ps.tolist() == [7 * 30 + 2 * 150]
    one = _workload([(50, 1, [(0, 30)])])
    assert run_replicas(_tables(LIMITS, ranks=2), LIMITS, one).replicas.encoder_ps.tolist() == [7 * 60 + 2 * 300]


def test_items_of_a_request_may_run_together_with_its_first() -> None:
    """Without a budget, and by request: the first chunk runs all three images, and two requests start kernels twice."""
    limits = replace(LIMITS, encoder_budget=0, encodes_by_request=True, max_num_batched_tokens=30)
    one = _workload([(60, 1, [(0, 10), (20, 30), (40, 50)])])
    result = run_replicas(_tables(limits), limits, one, log=True)
    assert _steps(result)[1][0] == 1000 + 300 + 7 * 60 + 2 * 300
    assert result.replicas.encoder_steps.tolist() == [1]
    two = _workload([(10, 1, [(0, 5), (5, 10)]), (10, 1, [(0, 10)])])
    assert run_replicas(_tables(limits, launch_ps=900), limits, two).replicas.encoder_ps.tolist() == [1800]


def test_only_the_first_stage_runs_the_encoder() -> None:
    """A pipeline of two stages delays the first token by the encoder once."""
    workload = _workload([(40, 1, [(0, 30)])])
    bare = replace(workload, items=None)
    tables = _tables(LIMITS, stages=2)
    with_images, without = (run_replicas(tables, LIMITS, one).first_token_ps[0] for one in (workload, bare))
    assert with_images - without == 7 * 60 + 2 * 300


def test_items_the_engine_cannot_run_are_refused() -> None:
    """Images without an encoder, beyond their prompt, or larger than the budget are named."""
    good = _workload([(40, 1, [(0, 30)])])
    with pytest.raises(UserError, match="the step tables hold no encoder"):
        run_replicas(replace(_tables(LIMITS), encoder=None), LIMITS, good)
    with pytest.raises(UserError, match="request 1 has an item of tokens 0 to 41 in a prompt of 40"):
        run_replicas(_tables(LIMITS), LIMITS, _workload([(40, 1, []), (40, 1, [(0, 41)])]))
    with pytest.raises(UserError, match="becomes 60 tokens, the encoder budget is 50"):
        run_replicas(_tables(LIMITS), LIMITS, _workload([(90, 1, [(0, 60)])]))


@dataclass(eq=False)
class _Request:
    prompt: int
    output: int
    items: list[tuple[int, int]]
    arrival: int
    computed: int = 0
    generated: int = 0
    finish: int = -1
    is_decoding: bool = False
    held: dict[int, int] = field(default_factory=dict)  # items in the encoder cache, and their rows

    @property
    def target(self) -> int:
        """Tokens whose KV it needs before the next one."""
        return self.prompt + self.generated


class _Scheduler:
    """vLLM's synchronous scheduler, written down from its rules: lists, no counters, no leaps."""

    def __init__(self, limits: EngineLimits, requests: list[_Request]) -> None:
        self.limits, self.requests = limits, requests
        self.coming = list(requests)
        self.waiting: list[_Request] = []
        self.running: list[_Request] = []
        self.clock = 0
        self.steps: list[tuple[int, int, int, int]] = []

    def blocks(self, tokens: int) -> int:
        """KV blocks of so many tokens."""
        return -(-tokens // self.limits.block_size)

    def free(self) -> int:
        """Blocks nobody holds."""
        return self.limits.num_gpu_blocks - sum(self.blocks(request.computed) for request in self.running)

    def cut(self, request: _Request, tokens: int) -> tuple[int, dict[int, int]]:
        """Tokens that may run, and the items that must."""
        limits, new = self.limits, dict[int, int]()
        cached = sum(sum(other.held.values()) for other in self.requests)
        for number, (start, end) in enumerate(request.items):
            if start >= request.computed + tokens:
                break
            if end <= request.computed or number in request.held:
                continue
            rows, taken = end - start, sum(new.values())
            whole = limits.keeps_items_whole and request.computed < start and request.computed + tokens < end
            if whole or rows > self.budget - taken or rows + taken > limits.encoder_budget - cached:
                return start - request.computed, new
            new[number] = rows
        return tokens, new

    def run(self, request: _Request, tokens: int, items: dict[int, int]) -> None:
        """Schedule tokens and items."""
        self.plan.append((request, tokens, not request.is_decoding))
        request.computed += tokens
        request.held |= items
        self.budget -= sum(items.values())
        self.rows += sum(items.values())
        self.left -= tokens

    def step(self) -> None:
        """Take one decision and run it."""
        limits = self.limits
        self.left, self.budget, self.rows = limits.max_num_batched_tokens, limits.encoder_budget, 0
        self.plan: list[tuple[_Request, int, bool]] = []
        preempted = False
        at = 0
        while at < len(self.running) and self.left > 0:
            request = self.running[at]
            tokens, items = self.cut(request, min(request.target - request.computed, self.left))
            if tokens > 0:
                while self.blocks(request.computed + tokens) - self.blocks(request.computed) > self.free():
                    victim = self.running.pop()
                    victim.computed, victim.held, victim.is_decoding = 0, {}, False
                    self.waiting.insert(0, victim)
                    preempted = True
                    if victim is request:
                        break
                if preempted and request not in self.running:
                    break
                self.run(request, tokens, items)
            at += 1
        while not preempted and self.waiting and self.left > 0 and len(self.running) < limits.max_num_seqs:
            request = self.waiting[0]
            tokens, items = self.cut(request, min(request.target, self.left))
            if tokens == 0 or self.blocks(request.target) > self.free():
                break
            self.running.append(self.waiting.pop(0))
            self.run(request, tokens, items)
        for request in self.requests:
            request.held = {n: rows for n, rows in request.held.items() if request.items[n][1] > request.computed}
        self.finish_step()

    def finish_step(self) -> None:
        """Let the step take its time, and its tokens count."""
        if not self.plan:
            return
        prefills = [tokens for _, tokens, is_prefill in self.plan if is_prefill]
        decodes = len(self.plan) - len(prefills)
        self.steps.append((self.clock, sum(prefills), len(prefills), decodes))
        self.clock += 1000 + 10 * (sum(prefills) + decodes) + (7 * 2 + 2 * 10) * self.rows
        for request, _, _ in self.plan:
            if request.computed == request.target:
                request.generated += 1
                request.is_decoding = True
                if request.generated == request.output:
                    request.finish = self.clock
                    self.running.remove(request)

    def serve(self) -> None:
        """Run until everybody is answered."""
        for _ in range(10_000):
            if not (self.coming or self.waiting or self.running):
                return
            if not self.waiting and not self.running:
                self.clock = max(self.clock, self.coming[0].arrival)
            while self.coming and self.coming[0].arrival <= self.clock:
                self.waiting.append(self.coming.pop(0))
            self.step()


@pytest.mark.parametrize("seed", range(60))
def test_the_engine_schedules_images_as_a_plain_scheduler_does(seed: int) -> None:
    """Every step of random requests with images, preemptions among them, has the same tokens at the same time."""
    rng = np.random.default_rng(seed)
    limits = replace(
        LIMITS,
        num_gpu_blocks=int(rng.choice([18, 40])),
        max_num_batched_tokens=int(rng.choice([30, 50, 90])),
        keeps_items_whole=bool(rng.integers(2)),
        encoder_budget=int(rng.choice([40, 70])),
    )
    requests = []
    for _ in range(25):
        items, at = [], 0
        for _ in range(rng.integers(0, 3)):
            start = at + int(rng.integers(0, 15))
            at = start + int(rng.integers(1, 40))
            items.append((start, at))
        requests.append((at + int(rng.integers(1, 40)), int(rng.integers(1, 30)), items))
    arrivals = np.cumsum(rng.integers(0, 3000, len(requests))).tolist()
    arrivals = [arrival - arrivals[0] for arrival in arrivals]
    plain = _Scheduler(limits, [_Request(*request, arrival=at) for request, at in zip(requests, arrivals, strict=True)])
    plain.serve()
    result = run_replicas(_tables(limits), limits, _workload(requests, arrivals), log=True)
    assert _steps(result) == plain.steps
    assert result.finish_ps.tolist() == [request.finish for request in plain.requests]


@pytest.mark.parametrize("more", [{"async_scheduling": True}, {"num_speculative_tokens": 2}])
def test_every_item_runs_once_whatever_the_engine(more: dict[str, object]) -> None:
    """Without preemption the encoder's items, tokens and pairs are those of the workload."""
    limits = replace(LIMITS, num_gpu_blocks=400, **more)  # type: ignore[arg-type]
    workload = _workload([(60, 5, [(0, 20), (25, 50)]), (30, 9, []), (90, 3, [(70, 85)])] * 7)
    totals = run_replicas(_tables(limits), limits, workload).replicas
    assert workload.items is not None
    for total, column in (("items", None), ("item_tokens", "tokens"), ("item_pairs", "pairs")):
        expected = len(workload.items) if column is None else int(getattr(workload.items, column).sum())
        assert getattr(totals, total).tolist() == [expected]
