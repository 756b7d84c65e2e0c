"""The state of a run: one int64 array that begins with this header, whose fields say where everything else lies.

The tables of requests, replicas, decode groups, log rows and prefix segments follow the header, and so do lists of
plain integers: heaps, the prefills of a replica, histograms, ids. Where one begins is counted in int64 from the header
on, so a state can be copied whole, saved and resumed. A link from one row to another is the index of the other in its
table; ``NONE`` ends a list.
"""

from typing import Final

from simulator.engine.lists import Heap
from simulator.engine.records import Record

# policies
VLLM_V1: Final = 0
VLLM_V0: Final = 1
SGLANG: Final = 2
ORCA: Final = 3
# routers
ROUND_ROBIN_ROUTER: Final = 0
VLLM_ROUTER: Final = 1
TICK_PS: Final = 100_000_000_000  # between two snapshots that vLLM's router judges by
LEAST_OUTSTANDING_ROUTER: Final = 2
PREFIX_ROUTER: Final = 3
RECORDED_ROUTER: Final = 4
# pools
ALONE: Final = 0
PREFILL_POOL: Final = 1
DECODE_POOL: Final = 2


class State(Record):
    """Header of a state: the rules of the run, where its tables lie, and the counters of client and router."""

    # where tables begin, and how many rows they have
    requests: int
    num_requests: int
    replicas: int
    num_replicas: int
    groups: int
    segments: int
    nodes: int
    items: int
    log: int
    log_capacity: int
    log_size: int  # rows asked for; only the first log_capacity are kept

    # rules of the scheduler
    policy: int
    max_seqs: int
    max_tokens: int
    max_model_len: int
    block_size: int
    block_bits: int  # block_size is 2 to this power, or none: NONE
    num_blocks: int
    watermark: int  # blocks that must stay free at an admission beside running requests
    long_prefill: int  # tokens; 0 = no threshold
    wait_iters: int  # steps prompts wait for company while sequences decode; 0 = none
    wait_tokens: int  # of the step they would join: with so many it goes at once
    ranks_wait_iters: int  # steps until a rank's prompts start without any on the other ranks; 0 = at once
    ranks_batching_iters: int  # steps they wait once every rank has some
    spare_tokens: int  # tokens of KV that must stay free beside the largest request
    unit_ids: int  # list: what the ids of all prompts name, numbered
    unit_blocks: int  # KV blocks that one id names
    window: int  # tokens of a sliding window; 0 = none
    ranks: int  # schedulers that step together
    stages: int  # pipeline stages, as many decode groups per replica
    in_flight: int  # decisions a pipeline may have under way
    decodes_always: bool  # pipeline: a sequence decodes in every micro-batch
    needs_all_ranks: bool  # pipeline: a micro-batch runs only if every rank has something to run
    drafts: int  # draft tokens of a decoding sequence per step; 0 = no speculative decoding
    draft_seed: int
    is_chunked: bool
    is_caching: bool
    is_async: bool
    is_leaping: bool
    gates_full_sequence: bool  # a prompt is admitted only if the blocks of the whole of it are free
    reserves_output: bool  # blocks of prompt and answer are taken at admission
    reserves_prompt: bool  # blocks of the whole prompt are taken at admission
    admits_after_preemption: bool
    recv_interval: int  # sglang: weight of the steps between two looks for arrivals; 1 = it looks before every step
    is_sglang: bool
    has_tree: bool  # sglang: the radix cache is on
    most_nodes: int  # of a replica's radix cache
    max_prefill_tokens: int  # sglang: no further prompt joins a step that has as many

    # the encoder of images and audio
    has_items: bool
    item_ranges: int  # list: the first item of each request, and the one behind the last
    encoder_budget: int  # rows it hands over in one step, and its cache holds; 0 = no limit, or nothing to run
    encodes_by_request: bool  # all items of a request run with its first one
    keeps_items_whole: bool  # no chunk ends within an item

    # what the client sees of an answer before its end
    first_chunk: int  # tokens that are sent first
    chunk_tokens: int  # tokens that are sent together from then on
    chunk_origin: int  # token from which chunks are counted

    # times the tables of costs do not hold
    host_step_ps: int
    host_seq_ps: int
    draft_step_ps: int  # what the draft model adds to every step in which it runs
    skips_drafts: bool  # it does not run where no sequence would verify its drafts
    frontend_ps: int
    frontend_gap_ps: int  # between two requests of a closed loop that leave the frontend
    frontend_last_ps: int  # when the last one left

    # the client
    is_closed: bool  # requests are sent by slots, each of which waits for an answer
    is_capped: bool  # a closed loop whose requests are not sent before they are due
    concurrency: int
    slot_starts: int  # list: when each slot of a closed loop sends its first request of a phase, ascending from 0
    warmup: int
    client_gap_ps: int  # between two requests that slots send: the client prepares one after the other
    client_last_ps: int  # when the last one was sent
    next_request: int  # index of the next request of the open-loop list or of the closed loop
    send_limit: int  # requests the closed loop may send in this phase
    phase_left: int  # warm-up requests not yet answered
    burst_left: int  # opening sends of the closed loop still to come
    free_slots: int  # slots of a capped loop with nothing due to send
    next_due: int  # index of the next request of a capped loop that no slot has taken
    timeout_ps: int  # after which the client gives a request up; 0 = never
    next_deadline: int  # index of the first request sent that is not known to be over
    # Heap of arrivals that follow a finish: times, then what arrives. Of an open loop that is a request, of a closed
    # loop the time s a slot sends at, or -2 - s once the frontend has let it pass.
    pending: Heap

    # the router
    router: int
    turn: int  # round robin
    last_tick_ps: int

    # the run
    horizon_ps: int  # decisions from here on wait for the next part of the workload; CLOCK_END if there is none
    next_time_ps: int  # of what comes next at the horizon; NEVER if nothing does
    budget: int  # turns of the event loop left before the caller may look around
    # two pools
    pool: int
    entry: int  # which engine runs the pool
    peer: int  # place of the header of the other pool
    peer_costs: int  # prefill pool: place of the step tables of the decode pool
    offers_first: bool  # the decode pool takes the blocks of a prompt before it is computed
    passes_first_token: bool  # the first token comes with the KV; else the last prompt token is computed again
    handover_ps: int  # from one pool to the other: what is computed is offered, or what has blocks may be computed
    reserved_tokens: int  # decode pool: tokens kept free for each request there where another one is offered
    transfers: Heap  # events of ``pool_messages``
    transfer_ps: int  # decode pool, list: how long the KV of each request is on the link
    links: int  # decode pool, list: when the link of each rank is free, those of the prefill pool first
    full: int  # the counter that is full, which ends the run (``bounds``); 0 = none
