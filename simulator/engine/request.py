"""What the engine knows of one request."""

from typing import Final

from simulator.engine.records import Record, Small

# values of Request.status
UNSENT: Final = 0
WAITING: Final = 1
PREFILLING: Final = 2
DECODING: Final = 3
RELEASING: Final = 4  # last token scheduled, slot and blocks still held
FINISHED: Final = 5
REJECTED_CONTEXT: Final = 6  # prompt + output exceed max_model_len
REJECTED_KV: Final = 7  # its KV can never fit
REJECTED_BUDGET: Final = 8  # whole-prompt policies: the prompt exceeds the token budget
VERIFYING: Final = 9  # decoding with drafts: computed and generated are exact, no group counts it
TIMED_OUT: Final = 10  # the client gave up
UNSEEN: Final = 11  # sent, and the scheduler has not looked yet
LEAVING: Final = 12  # preempted with its last token under way: in the waiting queue until that is seen
OFFERED: Final = 14  # two pools: waits for blocks in the decode pool
RECEIVING: Final = 15  # decode pool: its blocks are taken, its KV is not there yet
SENDING: Final = 16  # prefill pool: computed, blocks held until its KV has left
ABORTED: Final = 17  # sglang: alone in its micro-batch, and the others have left it no KV
OVERRUNNING: Final = 13  # sglang: last token scheduled, and it decodes once more because that is not seen yet


class Request(Record):
    """One request: 256 bytes, what decoding reads in the first line of cache, what only some runs need in the last.

    A step does not touch the requests that decode. They share the counter ``epoch`` of their decode group, the decode
    steps it has run, and differ in ``finish_epoch``, its value when they have their last token: a decoding request
    holds ``prompt + output - 1 - (finish_epoch - epoch)`` tokens of KV.
    """

    status: Small
    replica: Small  # number of the replica
    group: Small  # decode group, while it decodes
    held: Small  # sglang: tokens of its path in the radix cache
    finish_epoch: int
    admission: Small  # running number of the last admission
    node: Small  # sglang: end of its path in the radix cache, which it locks
    prompt: int
    output: int  # at least one
    computed: int  # tokens with KV; exact only while not decoding
    generated: int  # output tokens so far; exact only while not decoding

    number: int  # its own index
    previous: int  # neighbours in the running or the waiting list
    next: int
    next_releasing: int  # finished, slot and blocks still held
    next_finished: int  # finishes a router has not seen yet
    finish_ps: int
    hit_blocks: Small  # leading KV blocks it found in the prefix cache at its last admission
    own_segment: Small  # the last segment that it has computed and holds
    first_child: int  # first request sent after this one

    arrival_ps: int  # when the client sends it
    # between the finish it waits for and its arrival; NONE if it waits for none; decode pool: when its KV is there
    think_ps: int
    target: int  # tokens the prefill must reach: prompt + already generated
    scheduled_ps: int  # first admission decision
    first_token_ps: int
    remote: Small  # decode pool: tokens whose KV has come, for it in its blocks; prefill pool: 1 once its KV has left
    chunk_start: Small  # tokens with KV before its last chunk
    last_decision: int  # pipeline: the last decision that ran a chunk of its prompt, or its last decode before it left
    hit_tokens: int  # prompt tokens found in the prefix cache at the first admission

    named_blocks: Small  # leading KV blocks that ids name
    tail: Small  # sglang: node of the radix cache that begins behind these, where its sequence is its own
    first_unit: int  # place of its first id
    next_child: int  # next request sent after the same one
    asked: int  # output tokens the client asked for
    preemptions: Small
    unnamed_segment: Small  # of the KV blocks beyond its ids the first that was hashed
    hash_lag: Small  # tokens whose KV is not hashed while its last step is under way; exact only while not decoding
    seen: Small  # sglang: output tokens the scheduler has seen, while a retraction orders the running batch
    # with drafts only
    blocks: Small  # KV blocks held, rejected drafts included
    queries: Small  # tokens of its decode in the step being scheduled
    expected: Small  # tokens with KV as the scheduler must assume: drafts still under way count as accepted
    sure: Small  # output tokens it has even if all drafts still under way are rejected
