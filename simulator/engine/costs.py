"""Where each table of step costs lies in the array that holds them all."""

from simulator.engine.records import Record


class Costs(Record):
    """Header of the step tables; a table over tokens or rows has one stretch per pipeline stage."""

    token_mixed: int
    token_decode: int
    sample: int
    send: int
    token_stride: int  # entries per stage of the tables over tokens
    sample_stride: int
    batch_index: int  # lower batch knot of every batch size
    batch_knots: int
    num_batch_knots: int
    kv_knots: int
    num_kv_knots: int
    decode: int
    windowed: int
    pair_knots: int
    num_pair_knots: int
    pairs: int
    read_knots: int
    num_read_knots: int
    reads: int
    context_knots: int
    num_context_knots: int
    context: int
    attention_start: int  # per stage: what chunks save where one kernel runs them with the decoding sequences
    attention_repeats: int  # per stage: 1 where attention costs what it does in the stage before
    stages_alike: (
        int  # per stage: how many from it on attend and sample at its cost; 0 where it costs as the one before
    )
    acceptance: int  # bounds for a draw below 2^62: the i-th draft counts if the draw is below the i-th bound
    pooled: int  # part of a token table that works on the tokens of all attention-data ranks
    padded_mixed: int  # ranks are padded to the most tokens of any up to here, in steps with prefill
    padded_decode: int  # the same in steps without
    encoder_token_knots: int
    num_encoder_token_knots: int
    encoder_tokens: int
    encoder_pair_knots: int
    num_encoder_pair_knots: int
    encoder_pairs: int
    encoder_launch_ps: int
    encoder_by_request: bool  # the host starts its kernels for each request
    encoder_ranks: int  # over which items are spread; 1 = every rank runs a part of each
