"""What the engine knows of one replica, of one of its decode groups, and of one segment in its prefix cache."""

from simulator.engine.lists import Chain, Heap, Queue
from simulator.engine.records import Record, Small


class Group(Record):
    """The requests that decode in the same micro-batch: one group per pipeline stage, so one without a pipeline."""

    number: int
    epoch: int  # decode steps it has run
    decoders: int
    decode_kv: int  # tokens of KV over all its requests
    finish_epochs: int  # sum over them
    long_answers: int  # requests with more than LONG_ANSWER tokens of output
    finishes: Heap  # keys finish_epoch << ADMISSION_BITS | admission, and requests
    firsts: Heap  # same, by the epoch at which the first chunk of an answer is sent; empty where that is one token
    residue: int  # counts of requests by the epoch (mod block size) at which they need a block
    kv_segment: int  # where the last look-up in the tables ended
    line_batch: int  # sequences and segment for which ``line_cost`` and ``line_slope`` hold in the first stage
    line_segment: int
    line_cost: int  # decode attention at the first knot of that segment, in 2^-12 ps
    line_slope: int
    window_kv: int  # sum of min(kv, window)
    window_open: int  # requests with less KV than the window
    windows: Heap  # same as finishes, by the epoch at which a request fills the window
    window_segment: int
    last_launch: int  # pipeline: the decision that started its last step
    back_ps: int  # when its tokens are back

    # sglang: what ``Replica`` holds of the running batch at its turn
    is_blocked: bool
    over: int
    over_before: int
    joined: int
    was_prefill: bool
    had_cut: bool


class Duration(Record):
    """A sum of times that carries a fraction."""

    ps: int
    fraction: int  # 2^-12 ps


class Integral(Record):
    """A sum of counts times ps, too large for int64 in that unit."""

    whole: int  # 2^30 ps
    rest: int  # ps


class Planned(Record):
    """What has been scheduled for the step the replica is about to take."""

    left: int  # tokens of the budget that are left
    used: int  # blocks in use before
    tokens: int  # of prefill
    prefills: int
    pairs: int  # (query, key) pairs of the prefills, and the KV they read
    reads: int
    decodes: int  # sequences that decode
    decode_tokens: int  # with drafts only: their tokens, the KV they see, and what of it lies within the window
    decode_kv: int
    window_kv: int
    needs_drafts: bool  # some sequence will verify what is drafted in this step
    inputs: int  # sglang: prompt tokens after which no further prompt joins the step, those it has taken off
    taken: int  # tokens its chunks take, in whole pages and one more for each
    answers: int  # tokens of the answers of those whose prompts it completes
    need: int  # blocks its chunks take

    # of the encoder
    embeds_left: int  # of its budget
    passed_embeds: int  # of items whose last token this step computes
    items: int  # that run in this step, and their tokens and pairs
    item_requests: int  # whose items these are, and the last of them
    last_owner: int
    item_tokens: int
    item_pairs: int
    most_tokens: int  # of one item
    most_pairs: int


class Replica(Record):
    """One scheduler with its requests and its KV blocks, and the clock of what it runs on."""

    number: int
    first_group: int

    decision_ps: int  # of the next scheduling decision
    key_ps: int  # of the last decision of what is proposed; NEVER when idle
    end_ps: int  # of the last launched step
    end_fraction: int  # 2^-12 ps

    leap_steps: int  # steps proposed; 0 = a full scheduling pass is due
    leap_start_ps: int
    leap_start_fraction: int  # 2^-12 ps
    step_cost: int  # first step of the leap, 2^-12 ps
    step_growth: int  # what each further step adds, 2^-12 ps
    step_token_ps: int  # parts of step_cost
    step_sample_ps: int
    step_attention: int  # 2^-12 ps, and its growth per step
    attention_growth: int

    running: Queue  # in order of admission
    waiting: Queue
    offered: Queue  # decode pool: wait for blocks
    receiving: int  # decode pool: requests whose KV is to come
    sending: int  # prefill pool: requests that hold nothing but blocks until their KV has left
    unseen: Queue  # arrived, and the scheduler has not looked yet
    skipped: int  # sglang: weights of the steps since it last looked for arrivals
    num_partials: int  # running requests in prefill, and the list of them in the order of the running list
    partials: int
    releasing: Chain  # finished, slot and blocks still held
    finished: Chain  # finishes a router has not seen yet
    starved_head: int  # decoding requests the token budget did not reach in this step
    next_admission: int
    is_blocked: bool  # the head of the waiting queue cannot be admitted before something is released

    holds_prompts: bool  # lockstep: this step admits nobody
    waited: int  # steps its prompts, or those of its ranks, have been held back
    batched: int  # lockstep, first rank: the same since every rank has some

    held_embeds: int  # rows of the encoder cache that requests need

    free: int  # blocks without cached content
    unused: Queue  # segments nobody holds, the least recently used first, sglang: such nodes; counts their blocks
    rings: int  # list: the segment of each unit that was hashed first; sglang: the node that begins with the unit
    next_segment: int  # first row that no segment has taken yet
    free_segment: int  # first of the rows that segments have left

    # of a pipeline
    decisions: int  # taken so far, those that scheduled nothing included
    turn: int  # the last one leaves this modulo the stages
    unseen_results: int  # of them whose results the scheduler has not seen
    empties: int  # the last ones in a row that scheduled nothing
    tells_workers: bool  # the next one is taken even if no request is left: it says who has finished
    seen_ps: int  # end of the last step it has seen
    ends: int  # ends of the decisions whose results it has not seen, a ring, and the place of the last one
    last_end: int
    stage_free: int  # ps at which each stage is free
    surplus: int  # sequences that decode although their last token is under way
    dummy_decision: int  # lockstep: the last one in which this rank, without any request, ran a dummy one

    outstanding: int  # as a router sees them
    seen_waiting: int  # the router's last snapshot
    seen_running: int
    seen_used: int

    # sglang: how admission estimates, and what it knows of the running batch
    ratio_needed: int  # tokens the last retraction found to be needed
    ratio_asked: int  # of these that were asked for; 0 = no retraction since a pause, the ratio is the first one
    ratio_epoch: int  # from which the ratio decays
    overrunning: int  # requests whose last token the scheduler has not seen
    over: int  # those that are over and keep their seats: they leave with the next decode
    over_before: int  # the same before the last step of prompts
    joined: int  # requests whose prompts the last step completed, if it was one of prompts
    was_prefill: bool  # the last step was one of prompts, which have not joined yet
    had_prefill: bool  # the last step was one of prompts
    had_cut: bool  # and its last prompt was cut

    # sglang: prompts whose first token the scheduler has not seen, a ring, and when they are back
    results: int
    first_result: int
    num_results: int

    # sglang: the radix cache
    next_node: int  # first row that no node has taken yet, and the row behind the last one
    end_node: int
    free_node: int  # first of the rows that nodes have left
    touches: int

    planned: Planned

    # sums over its steps
    steps: int
    decode_steps: int  # steps without prefill
    busy_ps: int  # summed over stages
    active_ps: int  # in which at least one step is under way
    token_ps: int
    sample_ps: int
    send_ps: int
    draft_ps: int
    bubble_ps: int  # a pipeline stage waits between its steps, summed over stages
    attention: Duration
    host: Duration  # host time not hidden behind the device
    last_end_ps: int
    prefill_tokens: int
    decode_tokens: int
    decode_kv_reads: int
    prefill_pairs: int
    prefill_kv_reads: int
    sampled_rows: int
    draft_tokens: int
    accepted_tokens: int
    surplus_tokens: int  # decodes of sequences whose last token was under way already
    preempted: int
    hits: int  # prompt tokens taken from the prefix cache, every admission
    evicted_units: int  # KV blocks
    peak_blocks: int
    used_block_time: Integral  # in half blocks
    running_time: Integral
    histogram: int  # list of steps by number of sequences
    encoder_ps: int
    encoder_steps: int  # in which the encoder runs
    items: int
    item_tokens: int
    item_pairs: int


class Item(Record):
    """One image or audio clip of a request (``items``)."""

    start: int  # first prompt token that needs it
    end: int
    embeds: int  # rows the encoder hands over
    tokens: int  # tokens it runs
    pairs: int  # of them that see each other


class Segment(Record):
    """Hashed KV blocks in a row, with the same users; rows count from 1, 0 is none (``segments``)."""

    unit: int  # what one id names; -1 - i: what request i has beyond its ids
    first: Small  # place of its first block in the unit
    count: Small  # of blocks
    users: Small  # requests that hold it
    previous: Small  # neighbours among those nobody holds
    next: Small
    previous_copy: Small  # neighbours in the ring of the unit's segments
    next_copy: Small
    next_own: Small  # what the request that computed it has computed before
    is_own: bool  # that request still holds it


class Node(Record):
    """One node of SGLang's radix cache; rows count from 1, 0 is none, or the root (``radix_cache``)."""

    parent: Small
    previous: Small  # neighbours among those nobody locks
    next: Small
    follower: Small  # the one that begins inside a unit or inside what is one request's own; of free rows the next one
    locks: Small  # requests that hold a path through it
    touched: int  # number of the last match or insertion that passed it
    start: Small  # token of its sequences it begins with
    tokens: Small
    owner: int  # request whose sequence it spells; NONE if that is forgotten
    first_unit: int  # place of the owner's first id
    shared: int  # tokens of the owner's sequence that ids name: what lies behind them nobody shares
