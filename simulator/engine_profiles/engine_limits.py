"""The batching limits and rules one engine replica runs under (vLLM's names)."""

from typing import Final, Literal

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.acceptance import Acceptance
from simulator.engine_profiles.answer_chunks import FirstChunk
from simulator.engine_profiles.graph_modes import GraphMode

PolicyName = Literal["vllm-v1", "vllm-v0", "sglang", "orca"]
RouterName = Literal["round_robin", "vllm", "least_outstanding", "prefix"]

# When a sequence of a pipeline that is scheduled ahead decodes again: at every so many decisions as there are stages
# (vLLM's V2 model runner, with one decision more under way), when its token is back, or at every decision.
AsyncPipeline = Literal["staggered", "returned", "unbroken"]

# What becomes of a micro-batch of a pipeline for which an attention-data-parallel rank has nothing: the others run it
# beside a dummy batch (vLLM), or nobody does (TensorRT-LLM).
PipelineRanks = Literal["any", "all"]

MAX_PREFILL_TOKENS: Final = 16_384  # SGLang's own, where a profile states none


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What the server of one replica is started with, by vLLM's names.

    The scheduler's own limits (`EngineLimits`) are the same, except where no request of the workload can tell: a closed
    loop never fills more seats than it has clients, and a trace without prefix ids finds none, except that SGLang's
    retracted requests find their own.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    gpu_memory_utilization: float
    block_size: int
    enable_prefix_caching: bool
    enable_chunked_prefill: bool
    async_scheduling: bool
    enforce_eager: bool  # told to capture no graphs
    cudagraph_mode: GraphMode | None  # stated in place of the engine's own
    max_cudagraph_capture_size: int | None  # likewise
    scheduler_recv_interval: int  # SGLang: decode steps between two looks for requests that have arrived
    reserve_full_isl: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the scheduler of one replica may do; tokens, blocks and sequences are counts."""

    policy: PolicyName
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    num_gpu_blocks: int  # usable blocks (the null block already taken off)
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = False
    async_scheduling: bool = True
    async_pipeline: AsyncPipeline = "staggered"
    pipeline_ranks: PipelineRanks = "any"
    reserve_full_isl: bool = True  # admit only when free blocks cover the whole sequence
    reserves_output: bool = False  # take the blocks of prompt and answer at admission, so that nobody is preempted
    scheduler_recv_interval: int = 1  # sglang: decode steps between two looks for requests that have arrived
    max_prefill_tokens: int = (
        MAX_PREFILL_TOKENS  # sglang: no further prompt joins a step with as many, or a chunk if that is more
    )
    watermark_blocks: int = 0
    encoder_budget: int = 0  # rows the encoder hands over per step, and its cache holds; 0 = as many as chunks reach
    encodes_by_request: bool = False  # all items of a request run with its first one, by a call for each request
    keeps_items_whole: bool = False  # no chunk of a prompt ends within an image
    long_prefill_token_threshold: int = 0
    batch_wait_iters: int = 0  # steps prompts wait for company while sequences decode; 0 = none
    batch_wait_tokens: int = 0  # of the step they would join: with so many it goes at once
    ranks_wait_iters: int = 0  # steps until a rank's prompts start without any on the other ranks; 0 = at once
    ranks_batching_iters: int = 0  # steps they wait once every rank has some
    num_speculative_tokens: int = 0
    speculative_acceptance: Acceptance = 0.0  # of a draft given those before it, or the share of each position
    speculative_seed: int = 0
    draft_step_s: float = 0.0  # time the draft model adds to a step; 0 for drafts looked up in the text
    skips_unused_drafts: bool = False  # it adds none to a step after which nobody verifies drafts
    frontend_s: float = 0.0  # client, HTTP and tokeniser time added to each request's TTFT
    stream_interval: int = 1  # tokens of an answer that are sent together (``simulator.engine_profiles.answer_chunks``)
    first_chunk: FirstChunk = "alone"
    frontend_gap_s: float = 0.0  # least time between two requests of a closed loop: the tokeniser takes one at a time
