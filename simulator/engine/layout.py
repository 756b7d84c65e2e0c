"""Where the engine keeps its state: arrays whose columns are named here, shared by all compiled functions.

One row of ``request`` per request and one row of ``replica`` per replica keep what an event touches on a cache line
or two. A replica's decoding sequences are not touched by a step at all: they share the counter ``EPOCH``, the number of
decode steps the replica has run, and differ only in ``FINISH_EPOCH``, the value of that counter at which each of them
has its last token. A decoding request therefore holds ``prompt + output - 1 - (FINISH_EPOCH - EPOCH)`` tokens of KV.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

FRACTION_BITS: Final = 12  # clocks carry 2^-12 ps, so that a slope per KV token is an integer
NEVER: Final = 1 << 62
NONE: Final = -1

# request columns
ARRIVAL: Final = 0  # ps, when the client sends it
PROMPT: Final = 1
OUTPUT: Final = 2
SCHEDULED: Final = 3  # ps, first admission decision
FIRST_TOKEN: Final = 4  # ps
FINISH: Final = 5  # ps
STATUS: Final = 6
PREEMPTIONS: Final = 7
HIT_TOKENS: Final = 8  # prompt tokens found in the prefix cache, first admission
REPLICA: Final = 9
COMPUTED: Final = 10  # tokens with KV while prefilling
TARGET: Final = 11  # tokens the prefill must reach: prompt + already generated
GENERATED: Final = 12  # output tokens so far; exact only while not decoding
FINISH_EPOCH: Final = 13
ADMISSION: Final = 14  # running number of the last admission: order in the running list
PREVIOUS: Final = 15  # neighbours in the running or the waiting list
NEXT: Final = 16
NEXT_FINISHED: Final = 17  # chain of finishes a router has not seen
NEXT_RELEASING: Final = 18  # chain of requests whose slot and blocks are released after the next decision
SHARED_UNITS: Final = 19  # prefix-cache units this request holds a reference on
REQUEST_COLUMNS: Final = 20

# STATUS values
UNSENT: Final = 0
WAITING: Final = 1
PREFILLING: Final = 2
DECODING: Final = 3
RELEASING: Final = 4  # last token scheduled, slot and blocks still held (asynchronous scheduling)
FINISHED: Final = 5
REJECTED_CONTEXT: Final = 6  # prompt + output exceed max_model_len
REJECTED_KV: Final = 7  # its KV can never fit
REJECTED_BUDGET: Final = 8  # whole-prompt policies: the prompt exceeds the token budget

# replica columns
DECISION: Final = 0  # ps of the next scheduling decision
KEY: Final = 1  # ps of the last decision of the proposed leap; NEVER when idle
END: Final = 2  # end of the last launched step
END_FRACTION: Final = 3
LEAP: Final = 4  # steps proposed; 0 = a full scheduling pass is due
STEP_COST: Final = 5  # first step of the leap, 2^-12 ps
STEP_GROWTH: Final = 6  # what each further step adds, 2^-12 ps
LEAP_START: Final = 8
LEAP_START_FRACTION: Final = 9
RUN_HEAD: Final = 10
RUN_TAIL: Final = 11
RUN_COUNT: Final = 12
WAIT_HEAD: Final = 13
WAIT_TAIL: Final = 14
WAIT_COUNT: Final = 15
PARTIALS: Final = 16  # running requests still in prefill
BLOCKED: Final = 17  # 1 = the head of the waiting queue cannot be admitted before something is released
FREE: Final = 18  # free blocks without cached content
CACHED_FREE: Final = 19  # prefix-cache units nobody references
RELEASING_HEAD: Final = 20
NEXT_ADMISSION: Final = 21
EPOCH: Final = 22
DECODERS: Final = 23
DECODE_KV: Final = 24  # tokens of KV over all decoding requests
HEAP_SIZE: Final = 25
KV_SEGMENT: Final = 26  # search hint
LRU_HEAD: Final = 27
LRU_TAIL: Final = 28
OUTSTANDING: Final = 29  # as a router sees them
FINISHED_HEAD: Final = 30
FINISHED_TAIL: Final = 31
SEEN_WAITING: Final = 32  # the router's last snapshot
SEEN_RUNNING: Final = 33
SEEN_USED: Final = 34
WINDOW_KV: Final = 35  # sum of min(kv, window) over decoding requests
WINDOW_OPEN: Final = 36  # decoding requests with less KV than the window
WINDOW_HEAP_SIZE: Final = 37
WINDOW_SEGMENT: Final = 38
RELEASING_TAIL: Final = 39
STARVED_HEAD: Final = 40  # decoding requests the token budget did not reach in this step
STEP_TOKEN: Final = 41  # ps, parts of STEP_COST
STEP_SAMPLE: Final = 42
STEP_ATTENTION: Final = 43  # 2^-12 ps, and its growth per step
ATTENTION_GROWTH: Final = 44
REPLICA_COLUMNS: Final = 45

# total columns (sums over a replica's steps)
STEPS: Final = 0
BUSY: Final = 1  # ps
TOKEN_TIME: Final = 2  # ps
ATTENTION_TIME: Final = 3  # ps; its fraction is in ATTENTION_FRACTION
SAMPLE_TIME: Final = 4  # ps
HOST_TIME: Final = 5  # ps not hidden behind the device; its fraction is in HOST_FRACTION
PREFILL_TOKENS: Final = 6
DECODE_TOKENS: Final = 7
DECODE_KV_READS: Final = 8
PREFILL_PAIRS: Final = 9
PREFILL_KV_READS: Final = 10
SAMPLED_ROWS: Final = 11
DECODE_STEPS: Final = 12  # steps without prefill
PREEMPTED: Final = 13
HITS: Final = 14  # prompt tokens taken from the prefix cache, every admission
PEAK_BLOCKS: Final = 15
SEND_TIME: Final = 16
BUBBLE_TIME: Final = 17  # ps a pipeline stage waits although the replica has work, summed over stages
LAST_END: Final = 18  # ps
EVICTED_UNITS: Final = 19
DUMMY_STEPS: Final = 20
ATTENTION_FRACTION: Final = 21
HOST_FRACTION: Final = 22
TOTAL_COLUMNS: Final = 23

# globe entries (client and router)
NEXT_REQUEST: Final = 0  # next request of the open-loop list or of the closed loop
PENDING_SIZE: Final = 1
PHASE_LEFT: Final = 2  # warm-up requests not yet answered
ROUND_ROBIN: Final = 3
LAST_TICK: Final = 4
LOG_ROWS: Final = 5
LIMIT: Final = 6  # requests the closed loop may send in this phase
BURST_LEFT: Final = 7  # opening sends of the closed loop still to come
GLOBE_COLUMNS: Final = 8

# log columns
LOG_REPLICA: Final = 0
LOG_DECISION: Final = 1
LOG_START: Final = 2
LOG_END: Final = 3
LOG_PREFILL_TOKENS: Final = 4
LOG_DECODES: Final = 5
LOG_PREFILLS: Final = 6
LOG_DECODE_KV: Final = 7
LOG_PAIRS: Final = 8
LOG_RUNNING: Final = 9
LOG_WAITING: Final = 10
LOG_FREE: Final = 11
LOG_COLUMNS: Final = 12

# policies and routers
VLLM_V1: Final = 0
VLLM_V0: Final = 1
SGLANG: Final = 2
ORCA: Final = 3
ROUND_ROBIN_ROUTER: Final = 0
VLLM_ROUTER: Final = 1
LEAST_OUTSTANDING_ROUTER: Final = 2
PREFIX_ROUTER: Final = 3
RECORDED_ROUTER: Final = 4


class Rules(NamedTuple):
    """What stays fixed during a run; counts are tokens, blocks and sequences, flags are 0 or 1."""

    policy: int
    max_seqs: int
    max_tokens: int
    max_model_len: int
    block_size: int
    num_blocks: int
    is_chunked: int
    is_caching: int
    is_async: int
    gates_full_sequence: int
    reserves_output: int
    watermark: int
    long_prefill: int
    window: int
    host_step_ps: int
    host_seq_ps: int
    frontend_ps: int
    is_leaping: int
    router: int
    is_closed: int
    concurrency: int
    warmup: int
    unit_tokens: int
    unit_blocks: int
    horizon_ps: int


class Costs(NamedTuple):
    """The step tables as arrays; see ``StepTables``."""

    token_mixed: I64
    token_decode: I64
    sample: I64
    send: I64
    batch_index: I64  # [max_seqs + 1]: lower batch knot of every batch size
    batch_knots: I64
    kv_knots: I64
    decode: I64
    windowed: I64
    pair_knots: I64
    pairs: I64
    read_knots: I64
    reads: I64


class State(NamedTuple):
    """Everything that changes during a run."""

    request: I64  # [n, REQUEST_COLUMNS]
    replica: I64  # [dp, REPLICA_COLUMNS]
    total: I64  # [dp, TOTAL_COLUMNS]
    integral: F64  # [dp, 2]: used blocks x ps, running sequences x ps
    histogram: I64  # [dp, max_seqs + 1]: steps by number of sequences
    heap_key: I64  # [dp, capacity]: finish epoch << 32 | admission
    heap_request: I64
    window_key: I64  # same, for the epoch at which a request fills the window
    window_request: I64
    residue: I64  # [dp, block_size]: decoding requests by the epoch (mod block size) at which they need a block
    partial: I64  # [dp, max_seqs]: running requests in prefill, list order
    pending_time: I64  # heap of future arrivals that depend on a finish
    pending_request: I64
    first_child: I64  # [n] or [0]: request sent after this one finished
    next_child: I64
    think: I64  # [n] or [0], ps
    unit_offset: I64  # [n + 1] or [1]
    unit: I32  # dense unit ids
    unit_held: U8  # 1 = the request holds a reference on that unit
    unit_users: I32  # [dp, units]; -1 = not cached
    unit_previous: I32
    unit_next: I32
    globe: I64
    log: I64
