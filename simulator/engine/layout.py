"""Where the engine keeps its state: one flat int64 array, cut into rows whose columns are named here.

Compiled functions take the array and the offset of a row: ``state[req + layout.PROMPT]``, ``state[rep + layout.END]``.
Offsets also serve as links between rows, NONE ends a list. One array instead of forty keeps calls cheap (numba counts
references per array) and a run resumable.

``req`` is the row of a request, ``rep`` of a replica, ``grp`` of a decode group: the requests that decode in the same
micro-batch, one group per replica without pipeline stages. A group's sequences are not touched by a step at all. They
share the counter ``EPOCH``, the decode steps their group has run, and differ only in ``FINISH_EPOCH``, its value when
they have their last token. A decoding request therefore holds ``PROMPT + OUTPUT - 1 - (FINISH_EPOCH - EPOCH)`` tokens
of KV.
"""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Cells(Protocol):
    """An int64 array as compiled code sees it: one integer per place."""

    def __getitem__(self, at: int, /) -> int:
        """Read one cell."""
        ...

    def __setitem__(self, at: int, value: int, /) -> None:
        """Write one cell."""
        ...


FRACTION_BITS: Final = 12  # clocks carry 2^-12 ps, so that a slope per KV token is an integer
FRACTION_MASK: Final = (1 << FRACTION_BITS) - 1
OCCUPANCY_BITS: Final = 30  # integrals of blocks and sequences over time carry 2^-30 of their unit
OCCUPANCY_MASK: Final = (1 << OCCUPANCY_BITS) - 1
ADMISSION_BITS: Final = 30  # low bits of a heap key: place in the running list; the epoch takes the other 33
LAST_ADMISSION: Final = (1 << ADMISSION_BITS) - 1
LONGEST_SEQUENCE: Final = 1 << 31  # tokens
LAST_EPOCH: Final = (1 << 63 - ADMISSION_BITS) - LONGEST_SEQUENCE - 1
NONE: Final = -1

# Times are ps from the first arrival. No decision is taken and nothing arrives at CLOCK_END or later, so what follows
# from the last decision, sums of a few steps of at most LONGEST_STEP and a front end no slower, stays far below NEVER.
CLOCK_END: Final = 101 * 86_400 * 10**12
NEVER: Final = (1 << 63) - 1
LONGEST_STEP: Final = 1000 * 10**12  # ps, through all stages; 2^-12 ps of it fit into 62 bits
LONGEST_STRETCH: Final = 1 << 62  # 2^-12 ps

# --- header: rules of the run, then the client's and the router's few counters -------------------------------------
POLICY: Final = 0
MAX_SEQS: Final = 1
MAX_TOKENS: Final = 2
MAX_MODEL_LEN: Final = 3
BLOCK_SIZE: Final = 4
NUM_BLOCKS: Final = 5
IS_CHUNKED: Final = 6
IS_CACHING: Final = 7
IS_ASYNC: Final = 8
GATES_FULL_SEQUENCE: Final = 9
RESERVES_OUTPUT: Final = 10
WATERMARK: Final = 11
LONG_PREFILL: Final = 12
WINDOW: Final = 13
HOST_STEP: Final = 14  # ps
HOST_SEQ: Final = 15  # ps
FRONTEND: Final = 16  # ps
IS_LEAPING: Final = 17
ROUTER: Final = 18
IS_CLOSED: Final = 19  # requests are sent by slots, each of which waits for an answer
CONCURRENCY: Final = 20
WARMUP: Final = 21
UNIT_TOKENS: Final = 22
UNIT_BLOCKS: Final = 23
HORIZON: Final = 24  # ps; decisions from here on wait for the next part of the workload, CLOCK_END if there is none
STAGES: Final = 25
IN_FLIGHT: Final = 26  # micro-batches a pipeline may hold
REQUESTS: Final = 27  # offset and number of request rows
NUM_REQUESTS: Final = 28
REPLICAS: Final = 29
NUM_REPLICAS: Final = 30
# Heap of arrivals that follow a finish: times, then what arrives. Of a closed loop it is the time s a slot sends at,
# or -2 - s once the frontend has let it pass.
PENDING: Final = 31
PENDING_CAPACITY: Final = 32
PENDING_SIZE: Final = 33
LOG: Final = 34
LOG_CAPACITY: Final = 35
LOG_SIZE: Final = 36  # rows asked for; only the first LOG_CAPACITY are kept
NEXT_REQUEST: Final = 37  # index of the next request of the open-loop list or of the closed loop
SEND_LIMIT: Final = 38  # requests the closed loop may send in this phase
PHASE_LEFT: Final = 39  # warm-up requests not yet answered
BURST_LEFT: Final = 40  # opening sends of the closed loop still to come
TURN: Final = 41  # round robin
LAST_TICK: Final = 42
RESERVES_PROMPT: Final = 43  # blocks of the whole prompt are taken at admission
ADMITS_AFTER_PREEMPTION: Final = 44
SPARE_TOKENS: Final = 45  # tokens of KV that must stay free beside the largest request
PUBLISHES_LATE: Final = 46  # prefix units are found from the next decision on, not within the same one
RANKS: Final = 47  # schedulers that step together
DRAFTS: Final = 48  # draft tokens of a decoding sequence per step; 0 = no speculative decoding
DRAFT_STEP: Final = 49  # ps the draft model adds to every step
DRAFT_SEED: Final = 50
FRONTEND_GAP: Final = 51  # ps between two requests of a closed loop that leave the frontend
FRONTEND_LAST: Final = 52  # ps, when the last one left
BUDGET: Final = 53  # turns of the event loop left before the caller may look around
NEXT_TIME: Final = 54  # ps of what comes next at the horizon, NEVER if nothing does
FULL: Final = 55  # number of the counter that is full, which ends the run; see below
IS_CAPPED: Final = 56  # a closed loop whose requests are not sent before they are due
FREE_SLOTS: Final = 57  # slots of a capped loop with nothing due to send
NEXT_DUE: Final = 58  # index of the next request of a capped loop that no slot has taken
TIMEOUT: Final = 59  # ps after which the client gives a request up; 0 = never
NEXT_DEADLINE: Final = 60  # index of the first request sent that is not known to be over
HEADER_COLUMNS: Final = 61

# FULL values
STAGE_TIME: Final = 1  # time summed over pipeline stages
EPOCHS: Final = 2
ADMISSIONS: Final = 3

# --- request -------------------------------------------------------------------------------------------------------
ARRIVAL: Final = 0  # ps, when the client sends it
PROMPT: Final = 1
OUTPUT: Final = 2
SCHEDULED: Final = 3  # ps, first admission decision
FIRST_TOKEN: Final = 4  # ps
FINISH: Final = 5  # ps
STATUS: Final = 6
PREEMPTIONS: Final = 7
HIT_TOKENS: Final = 8  # prompt tokens found in the prefix cache at the first admission
REPLICA: Final = 9  # number of the replica
COMPUTED: Final = 10  # tokens with KV; exact only while not decoding
TARGET: Final = 11  # tokens the prefill must reach: prompt + already generated
GENERATED: Final = 12  # output tokens so far; exact only while not decoding
FINISH_EPOCH: Final = 13
ADMISSION: Final = 14  # running number of the last admission
PREVIOUS: Final = 15  # neighbours in the running or the waiting list
NEXT: Final = 16
NEXT_FINISHED: Final = 17  # finishes a router has not seen yet
NEXT_RELEASING: Final = 18  # finished, slot and blocks still held
GROUP: Final = 19  # decode group
FIRST_UNIT: Final = 20  # prefix units of the prompt, UNIT_COLUMNS each
NUM_UNITS: Final = 21
SHARED_UNITS: Final = 22  # those it holds a reference on
FIRST_CHILD: Final = 23  # first request sent after this one, and the next one sent after the same
NEXT_CHILD: Final = 24
THINK: Final = 25  # ps between that finish and this arrival
ASKED: Final = 26  # output tokens the client asked for; OUTPUT is at least one
CHUNK_START: Final = 27  # tokens with KV before its last chunk
REMOTE: Final = 28  # tokens whose KV comes with the request from another pool; lost when it is preempted
# with drafts only
BLOCKS: Final = 29  # KV blocks held, rejected drafts included
QUERIES: Final = 30  # tokens of its decode in the step being scheduled
EXPECTED: Final = 31  # tokens with KV as the scheduler must assume: drafts still under way count as accepted
REQUEST_COLUMNS: Final = 32

# STATUS values
UNSENT: Final = 0
WAITING: Final = 1
PREFILLING: Final = 2
DECODING: Final = 3
RELEASING: Final = 4  # last token scheduled, slot and blocks still held
FINISHED: Final = 5
REJECTED_CONTEXT: Final = 6  # prompt + output exceed max_model_len
REJECTED_KV: Final = 7  # its KV can never fit
REJECTED_BUDGET: Final = 8  # whole-prompt policies: the prompt exceeds the token budget
TIMED_OUT: Final = 10  # the client gave up
VERIFYING: Final = 9  # decoding with drafts: COMPUTED and GENERATED are exact, no group counts it

# one prefix unit of one request
UNIT: Final = 0  # number of the unit
HELD: Final = 1  # 1 = the request holds a reference on it
UNIT_COLUMNS: Final = 2

# one unit in the prefix cache of one replica
USERS: Final = 0  # requests that hold it; NONE = not cached
UNIT_PREVIOUS: Final = 1
UNIT_NEXT: Final = 2
CACHE_COLUMNS: Final = 3

# --- decode group --------------------------------------------------------------------------------------------------
EPOCH: Final = 0
DECODERS: Final = 1
DECODE_KV: Final = 2  # tokens of KV over all its requests
HEAP: Final = 3  # finish heap: keys FINISH_EPOCH << 32 | ADMISSION, then requests
HEAP_SIZE: Final = 4
HEAP_CAPACITY: Final = 5
RESIDUE: Final = 6  # counts of requests by the epoch (mod block size) at which they need a block
KV_SEGMENT: Final = 7  # where the last look-up in the tables ended
WINDOW_KV: Final = 8  # sum of min(kv, window)
WINDOW_OPEN: Final = 9  # requests with less KV than the window
WINDOW_HEAP: Final = 10  # same as HEAP, by the epoch at which a request fills the window
WINDOW_HEAP_SIZE: Final = 11
WINDOW_SEGMENT: Final = 12
LAST_LAUNCH: Final = 13  # number of the group's last step among the replica's steps, and when its tokens are back
BACK: Final = 14
GROUP_COLUMNS: Final = 15

# --- replica -------------------------------------------------------------------------------------------------------
DECISION: Final = 0  # ps of the next scheduling decision
KEY: Final = 1  # ps of the last decision of what is proposed; NEVER when idle
END: Final = 2  # end of the last launched step
END_FRACTION: Final = 3
LEAP: Final = 4  # steps proposed; 0 = a full scheduling pass is due
STEP_COST: Final = 5  # first step of the leap, 2^-12 ps
STEP_GROWTH: Final = 6  # what each further step adds, 2^-12 ps
STEP_TOKEN: Final = 7  # ps, parts of STEP_COST
STEP_SAMPLE: Final = 8
STEP_ATTENTION: Final = 9  # 2^-12 ps, and its growth per step
ATTENTION_GROWTH: Final = 10
LEAP_START: Final = 11
LEAP_START_FRACTION: Final = 12
RUN_HEAD: Final = 13
RUN_TAIL: Final = 14
RUN_COUNT: Final = 15
WAIT_HEAD: Final = 16
WAIT_TAIL: Final = 17
WAIT_COUNT: Final = 18
PARTIALS: Final = 19  # running requests in prefill: how many, and their rows in list order
PARTIAL_LIST: Final = 20
BLOCKED: Final = 21  # 1 = the head of the waiting queue cannot be admitted before something is released
FREE: Final = 22  # free blocks without cached content
CACHED_FREE: Final = 23  # prefix units nobody holds
RELEASING_HEAD: Final = 24
RELEASING_TAIL: Final = 25
STARVED_HEAD: Final = 26  # decoding requests the token budget did not reach in this step
NEXT_ADMISSION: Final = 27
LRU_HEAD: Final = 28
LRU_TAIL: Final = 29
CACHE: Final = 30
GROUPS: Final = 31
ENDS: Final = 32  # pipeline: ends of the last IN_FLIGHT steps, a ring
OUTSTANDING: Final = 33  # as a router sees them
FINISHED_HEAD: Final = 34
FINISHED_TAIL: Final = 35
SEEN_WAITING: Final = 36  # the router's last snapshot
SEEN_RUNNING: Final = 37
SEEN_USED: Final = 38
STAGE_FREE: Final = 39  # ps at which each pipeline stage is free
NUMBER: Final = 40
# sums over the replica's steps
STEPS: Final = 41
BUSY: Final = 42  # ps, summed over stages
TOKEN_TIME: Final = 43  # ps
ATTENTION_TIME: Final = 44  # ps
ATTENTION_FRACTION: Final = 45
SAMPLE_TIME: Final = 46  # ps
HOST_TIME: Final = 47  # ps not hidden behind the device
HOST_FRACTION: Final = 48
SEND_TIME: Final = 49  # ps
BUBBLE_TIME: Final = 50  # ps a pipeline stage waits between its steps, summed over stages
LAST_END: Final = 51  # ps
PREFILL_TOKENS: Final = 52
DECODE_TOKENS: Final = 53
DECODE_KV_READS: Final = 54
PREFILL_PAIRS: Final = 55
PREFILL_KV_READS: Final = 56
SAMPLED_ROWS: Final = 57
DECODE_STEPS: Final = 58  # steps without prefill
PREEMPTED: Final = 59
HITS: Final = 60  # prompt tokens taken from the prefix cache, every admission
EVICTED_UNITS: Final = 61
PEAK_BLOCKS: Final = 62
USED_BLOCK_TIME: Final = 63  # half a block times 2^30 ps; the rest, in half a block times ps, in USED_BLOCK_FRACTION
RUNNING_TIME: Final = 64  # a sequence times 2^30 ps; the rest in RUNNING_FRACTION
HISTOGRAM: Final = 65  # steps by number of sequences
ACTIVE: Final = 66  # ps in which at least one step is under way
NEW_TOKEN_RATIO: Final = 67  # sglang: share of the answers still to come that admission reserves, in 1e-9,
RATIO_EPOCH: Final = 68  # at this epoch; it decays from there
# what a rank has scheduled for the step its replica is about to take
PLANNED_TOKENS: Final = 69
PLANNED_PREFILLS: Final = 70
PLANNED_PAIRS: Final = 71
PLANNED_READS: Final = 72
PLANNED_USED: Final = 73  # blocks in use before
PLANNED_DECODES: Final = (
    74  # with drafts and ranks: sequences that decode, their tokens, the KV they see, and within the window
)
PLANNED_DECODE_TOKENS: Final = 75
PLANNED_DECODE_KV: Final = 76
PLANNED_WINDOW_KV: Final = 77
DRAFT_TOKENS: Final = 78
ACCEPTED_TOKENS: Final = 79
DRAFT_TIME: Final = 80  # ps
USED_BLOCK_FRACTION: Final = 81
RUNNING_FRACTION: Final = 82
REPLICA_COLUMNS: Final = 83

# --- iteration log -------------------------------------------------------------------------------------------------
LOG_REPLICA: Final = 0
LOG_DECISION: Final = 1  # ps
LOG_START: Final = 2  # ps
LOG_END: Final = 3  # ps
LOG_PREFILL_TOKENS: Final = 4
LOG_DECODES: Final = 5
LOG_PREFILLS: Final = 6
LOG_DECODE_KV: Final = 7
LOG_PAIRS: Final = 8
LOG_RUNNING: Final = 9
LOG_FREE: Final = 10
LOG_WAITING: Final = 11  # when the row was written: inside a leap, the queue at its end
LOG_COLUMNS: Final = 12

# --- step tables: header of the second array, offsets and lengths ---------------------------------------------------
TOKEN_MIXED: Final = 0
TOKEN_DECODE: Final = 1
SAMPLE: Final = 2
SEND: Final = 3
TOKEN_STRIDE: Final = 4  # entries per stage of the three tables above over tokens
SAMPLE_STRIDE: Final = 5
BATCH_INDEX: Final = 6  # lower batch knot of every batch size
BATCH_KNOTS: Final = 7
NUM_BATCH_KNOTS: Final = 8
KV_KNOTS: Final = 9
NUM_KV_KNOTS: Final = 10
DECODE: Final = 11
WINDOWED: Final = 12
PAIR_KNOTS: Final = 13
NUM_PAIR_KNOTS: Final = 14
PAIRS: Final = 15
READ_KNOTS: Final = 16
NUM_READ_KNOTS: Final = 17
READS: Final = 18
CONTEXT_KNOTS: Final = 19
NUM_CONTEXT_KNOTS: Final = 20
CONTEXT: Final = 21
ACCEPTANCE: Final = 22  # bounds for a draw below 2^62: the i-th draft counts if the draw is below the i-th bound
POOLED: Final = 23  # part of a token table that works on the tokens of all attention-data ranks
PADDED_MIXED: Final = 24  # ranks are padded to the most tokens of any up to here, in steps with prefill
PADDED_DECODE: Final = 25  # the same in steps without
COST_COLUMNS: Final = 26

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
