"""What is started before anything is priced: a model on a cluster under an engine profile, as a user sets it up."""

from dataclasses import field
from typing import Literal

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.acceptance import Acceptance
from simulator.engine_profiles.answer_chunks import FirstChunk
from simulator.engine_profiles.engine_limits import RouterName
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.graph_modes import GraphMode
from simulator.feasible.context import check_max_model_len, context_of
from simulator.feasible.stated_graphs import with_stated_graphs
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan
from simulator.workload.parts import Traffic

# Drafts that are looked up in the text, those of a draft model, and those of the model's own heads.
DraftMethod = Literal["ngram", "draft_model", "mtp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Engine settings the user states; None leaves the engine profile's own default."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    num_gpu_blocks: int | None = None
    block_size: int | None = None
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    async_scheduling: bool | None = None
    scheduler_recv_interval: int | None = None  # SGLang: decode steps between two looks for requests that have arrived
    enforce_eager: bool = False  # no step runs as a captured graph
    cudagraph_mode: GraphMode | None = None  # vLLM: which steps run as one graph, in pieces or without
    max_cudagraph_capture_size: int | None = None  # tokens of the largest captured step
    speculative_tokens: int | None = None
    speculative_acceptance: Acceptance | None = None  # of a draft given those before it, or the share of each position
    speculative_method: DraftMethod | None = None  # None: as ``draft_step_s`` says
    stream_interval: int | None = None  # tokens of an answer that the server sends together
    draft_step_s: float | None = None  # what the draft model adds to a step; None for drafts without a model
    batch_wait_timeout_iters: int | None = None
    batch_wait_max_tokens_ratio: float | None = None
    attention_dp_timeout_iters: int | None = None
    attention_dp_batching_wait_iters: int | None = None
    mm_encoder_tp_mode: Literal["weights", "data"] | None = None  # whether items are spread over tensor ranks
    router: RouterName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSetup:
    """A model, a cluster and an engine profile, with the user's overrides."""

    model: ModelSpec
    cluster: ClusterSpec
    profile: EngineProfile
    overrides: Overrides = field(default_factory=Overrides)

    def max_model_len(self, workload: Traffic) -> int:
        """Longest sequence the engine must accept: the workload's longest request, in whole kilotokens.

        Engines default to the model's whole context, which makes small plans fail to start for lengths nobody sends.
        """
        if self.overrides.max_model_len is not None:
            check_max_model_len(self.overrides.max_model_len, self.model, self.profile)
            return self.overrides.max_model_len
        return min(context_of(self.model, self.profile).limit, -(-workload.longest_tokens // 1024) * 1024)

    def profile_on_device(self, plan: Plan) -> EngineProfile:
        """Return the profile as a replica of ``plan`` starts it, with the graphs it captures there; none if told so.

        Raises ``UserError`` for graphs that the engine cannot be told to capture, or not to.
        """
        stated = self.overrides
        return with_stated_graphs(
            self.profile.on(self.cluster.device, plan, self.model.architecture),
            enforce_eager=stated.enforce_eager,
            mode=stated.cudagraph_mode,
            max_size=stated.max_cudagraph_capture_size,
        )

    @property
    def draft_method(self) -> DraftMethod | None:
        """Where drafts come from; None without drafts."""
        stated = self.overrides
        if not stated.speculative_tokens:
            return None
        return stated.speculative_method or ("ngram" if stated.draft_step_s is None else "draft_model")

    @property
    def loaded_model(self) -> ModelSpec:
        """The model with what it drafts with: a multi-token-prediction layer, where that is asked for."""
        return self.model.with_draft_layer() if self.draft_method == "mtp" else self.model

    @property
    def scheduler_recv_interval(self) -> int:
        """Decode steps between two looks for requests that have arrived.

        Raises ``UserError`` where one is stated for an engine that looks before every step.
        """
        asked = self.overrides.scheduler_recv_interval
        if asked is None:
            return self.profile.scheduler_recv_interval
        if self.profile.policy != "sglang":
            raise UserError(
                f"--scheduler-recv-interval cannot act: {self.profile.name} looks for new requests before every step",
                hint="leave it out, or choose --engine sglang-0.5",
            )
        return asked

    def answer_chunks(self) -> tuple[int, FirstChunk]:
        """Tokens of an answer that are sent together, and the rule of the first ones."""
        own, stated = self.profile.streaming, self.overrides.stream_interval
        if own is not None:
            return stated or own.interval, own.first
        if stated not in {None, 1}:
            raise UserError(
                f"stream_interval is {stated}: {self.profile.name} sends every token at once, it knows no interval",
                hint="leave --stream-interval out, or choose a version that has it (vLLM from 0.12, SGLang, "
                "TensorRT-LLM); a profile of your own states it in [streaming]",
            )
        return 1, "alone"

    def async_conflict(self, plan: Plan) -> str | None:
        """Name what of the plan keeps this version of the engine from scheduling a step ahead."""
        drafts = self.overrides.speculative_tokens
        if self.profile.engine == "vllm" and self.cluster.device.kind == "cpu":
            return "the CPU as its device"
        return self.profile.async_conflict(
            pp=plan.pp, has_drafts=bool(drafts), has_lookup_drafts=self.draft_method == "ngram"
        )
