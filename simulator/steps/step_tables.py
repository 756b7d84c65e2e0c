"""What one iteration of one replica costs, as the engine sees it: integer tables compiled once per plan.

All times are int64 **picoseconds**: sums of integers are associative, so a leap over a thousand decode steps ends on
exactly the same clock as a thousand single steps. One iteration of stage ``s`` that schedules ``T`` tokens, of which
``B`` sequences decode over ``K`` tokens of KV in total and the prefill chunks hold ``W`` causal (query, key) pairs over
``V`` tokens of KV, and that samples ``S`` rows, keeps the GPU busy for

    (decode_only ? token_decode[s, T] : token_mixed[s, T])
    + sample[s, S] + decode(B, K) [+ windowed(B, Kw)] + prefill(W, V)

K counts the token each sequence is about to write (with speculative decoding its drafts as well), V all tokens up to
the end of each chunk, and S every token of a decode and one row of each chunk: engines sample the last row of a partial
prompt as well. ``decode`` interpolates linearly in K
between its knots for every B, and linearly in B between its knots; ``windowed`` does the same for the sliding-window
layers over Kw = sum of min(kv, window); ``prefill`` is max(pairs(W), reads(V)) + context(C), piecewise linear in each,
where C is the part of V that was cached before the step: latent attention must expand it to keys and values. Where one
kernel attends for chunks and decoding sequences alike, chunks save its start (``attention_start``) if both are there.
CUDA-graph padding is already inside the token tables. Attention-data ranks pool their tokens for the experts: see
``simulator.engine.lockstep``. The host needs ``host_step + host_seq * (sequences in the step)``: a floor
under the step when scheduling is asynchronous, an addend when it is not; what it does between two steps in any case is
inside ``sample``. Items that the encoder runs in the step come on top, on the first stage (``EncoderTables``).
"""

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderTables:
    """Cost of an encoder in a step whose items have so many tokens, and so many pairs of them that see each other.

    On the first stage, before everything else; both tables are lines between their knots.
    """

    token_knots: I64  # [nt], ascending, first 0
    token_ps: I64  # [nt]: all but the attention of layers in which every token of an item sees every other
    pair_knots: I64  # [np], ascending, first 0
    pair_ps: I64  # [np]: that attention
    launch_ps: int = 0  # the host takes as long to start its kernels
    ranks: int = 1  # over which whole items are spread; 1 = each rank runs a part of every item


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTables:
    """Cost of a step of one model replica with ``stages`` pipeline stages; see the module for the formula."""

    token_mixed_ps: I64  # [stages, max_num_batched_tokens + 1]
    token_decode_ps: I64  # [stages, max_num_batched_tokens + 1]: steps without prefill (full CUDA graphs)
    pooled_ps: I64  # [stages, max_num_batched_tokens + 1]: the part of both that takes the tokens of all ranks
    padded_mixed: int  # attention-data ranks are padded to the most tokens of any up to here, in steps with prefill
    padded_decode: int  # the same in steps without
    sample_ps: I64  # [stages, max_num_seqs (1 + drafts) + 1]; zero on all but the last stage
    send_ps: I64  # [stages, max_num_batched_tokens + 1]: hand-over to the next stage; zero on the last
    decode_batch_knots: I64  # [nb], ascending, first 1, last >= max_num_seqs
    decode_kv_knots: I64  # [nk], ascending, first 0, last >= all KV tokens of the replica
    decode_ps: I64  # [stages, nb, nk]
    windowed_ps: I64  # [stages, nb, nk]: sliding-window layers on the same knots; zeros where there are none
    window_tokens: int  # 0 = no sliding-window layers
    prefill_pair_knots: I64  # [np], ascending, first 0
    prefill_pair_ps: I64  # [stages, np]
    prefill_kv_knots: I64  # [nv], ascending, first 0
    prefill_kv_ps: I64  # [stages, nv]
    context_knots: I64  # [nc], ascending, first 0
    attention_start_ps: I64  # [stages]: what chunks save beside decoding sequences; zeros where kernels are two
    context_ps: I64  # [stages, nc], first column 0: expanding cached latent KV; zeros where keys are cached as such
    host_step_ps: int
    host_seq_ps: int
    encoder: EncoderTables | None = None  # of requests with images or audio

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return int(self.token_mixed_ps.shape[0])


def linear_tables(
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    step_ps: int,
    token_ps: int,
    pooled_token_ps: int = 0,
    padded_tokens: int = 0,
    sample_seq_ps: int = 0,
    decode_seq_ps: int = 0,
    decode_kv_ps: int = 0,
    pair_ps: int = 0,
    kv_read_ps: int = 0,
    attention_start_ps: int = 0,
    context_kv_ps: int = 0,
    windowed_kv_ps: int = 0,
    window_tokens: int = 0,
    kv_knots: tuple[int, ...] = (0, 1 << 20),
    stages: int = 1,
    send_ps: int = 0,
    host_step_ps: int = 0,
    host_seq_ps: int = 0,
    drafts: int = 0,
) -> StepTables:
    """Tables of a machine whose every cost is linear: to try the engine, and to check it by hand.

    One step of T tokens, B sequences and K tokens of KV takes ``step_ps + T token_ps + B (sample_seq_ps +
    decode_seq_ps) + K decode_kv_ps`` per stage. Its prefill chunks take ``pair_ps`` per causal pair or ``kv_read_ps``
    per token of KV, whichever is more, and ``context_kv_ps`` per token that was cached before. Sampling is on the last
    stage only. A token takes ``pooled_token_ps`` more, the sum of which attention-data ranks share above
    ``padded_tokens``.
    """
    tokens = np.arange(max_num_batched_tokens + 1, dtype=np.int64)
    token = np.tile(step_ps + tokens * (token_ps + pooled_token_ps), (stages, 1))
    rows = np.arange(max_num_seqs * (1 + drafts) + 1, dtype=np.int64)
    sample = np.zeros((stages, len(rows)), dtype=np.int64)
    sample[-1] = rows * sample_seq_ps
    send = np.full((stages, max_num_batched_tokens + 1), send_ps, dtype=np.int64)
    send[-1] = 0
    batch = np.array([1, max(2, max_num_seqs)], dtype=np.int64)
    kv = np.array(kv_knots, dtype=np.int64)
    decode = batch[:, None] * decode_seq_ps + kv[None, :] * decode_kv_ps
    windowed = np.broadcast_to(kv * windowed_kv_ps, decode.shape)
    line = np.array([0, 1 << 20], dtype=np.int64)
    return StepTables(
        token_mixed_ps=token,
        token_decode_ps=token,
        pooled_ps=np.tile(tokens * pooled_token_ps, (stages, 1)),
        padded_mixed=padded_tokens,
        padded_decode=padded_tokens,
        sample_ps=sample,
        send_ps=send,
        decode_batch_knots=batch,
        decode_kv_knots=kv,
        decode_ps=np.tile(decode, (stages, 1, 1)),
        windowed_ps=np.tile(windowed, (stages, 1, 1)),
        window_tokens=window_tokens,
        prefill_pair_knots=line,
        prefill_pair_ps=np.tile(line * pair_ps, (stages, 1)),
        prefill_kv_knots=line,
        prefill_kv_ps=np.tile(line * kv_read_ps, (stages, 1)),
        attention_start_ps=np.full(stages, attention_start_ps, dtype=np.int64),
        context_knots=line,
        context_ps=np.tile(line * context_kv_ps, (stages, 1)),
        host_step_ps=host_step_ps,
        host_seq_ps=host_seq_ps,
    )
