"""What differs between serving engines and their versions: defaults, batching rules and host time, by name.

One TOML per profile in ``engine_profiles/``. The times are the only physical constants outside the cost model: they
describe the engine's own code, not the hardware, and carry their source.
"""

import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, Self

from cluster_specs.device import DeviceSpec
from cluster_specs.files.declared import Field, field_validator
from cluster_specs.files.toml_model import checked
from simulator.engine_profiles.answer_chunks import AnswerChunks
from simulator.engine_profiles.batch_limits import BatchLimits
from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE, is_path, profile_for
from simulator.engine_profiles.engine_kernels import (
    BuiltFor,
    ExpertKernels,
    ExpertRouting,
    FusedKernels,
    Launches,
    SustainedLoad,
)
from simulator.engine_profiles.engine_limits import AsyncPipeline, PipelineRanks, PolicyName, RouterName
from simulator.engine_profiles.graph_capture import GraphCapture
from simulator.engine_profiles.inheritance import MergedProfile, merge_profile
from simulator.engine_profiles.kernel_families import KernelFamilies
from simulator.engine_profiles.layouts import NO_LAYOUTS, Layouts
from simulator.engine_profiles.load_factors import NO_LOAD_FACTORS, LoadFactors
from simulator.engine_profiles.pool_rules import PoolRules
from simulator.engine_profiles.price_factors import AS_FITTED, PriceFactors
from simulator.engine_profiles.profile_section import (
    Count,
    ProfileSection,
    Seconds,
    Source,
    Steps,
)
from simulator.engine_profiles.spread import Spread
from simulator.engine_profiles.start_up import MemoryReserve, StartUpMemory
from simulator.plan.plan import Plan

if TYPE_CHECKING:
    from pydantic import ValidationInfo


class HostTime(ProfileSection):
    """Time the engine's own code takes; ``source`` says where the figures come from.

    Where scheduling is asynchronous, a step lasts max(device + serial, step + sequences): work that only has to be
    done once per step hides behind the device, or the device behind it. Where it is not, all of them add up.
    """

    step_s: Seconds  # per step, beside the device where scheduling is asynchronous
    sequence_s: Seconds  # per sequence and step, likewise: scheduling, building inputs, handing tokens out
    serial_step_s: Seconds = 0.0  # per step, between one step's last kernel and the next one's first in any case
    serial_sequence_s: Seconds = 0.0  # per sequence and step, likewise: from a sampled token to the next input
    frontend_s: Seconds  # HTTP and client, once per request
    frontend_token_s: Seconds = 0.0  # tokenising, per token of the prompt
    all_reduce_s: Seconds  # added to each all-reduce between separately captured graph pieces
    launch_s: Seconds  # per op of a step that runs without a CUDA graph: the host cannot start them faster
    source: Source


class PromptWaiting(ProfileSection):
    """How many steps prompts are held back while sequences decode, by TensorRT-LLM's names; 0 is not at all."""

    batch_wait_timeout_iters: Steps = 0  # without attention data parallelism: at most so many
    batch_wait_max_tokens_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0  # not where a step has this share of tokens
    attention_dp_timeout_iters: Steps = 0  # until every rank has a prompt, at most so many
    attention_dp_batching_wait_iters: Steps = 0  # and so many more once each has
    source: Source


class ContextRules(ProfileSection):
    """How the engine derives a model's longest sequence from its rope scaling: types by name."""

    unscaled: list[str] = Field(default_factory=list)  # their factor does not lengthen the context
    from_original: list[str] = Field(default_factory=list)  # their factor counts from original_max_position_embeddings
    original_is_scaled: bool = False  # no factor counts where original_max_position_embeddings is stated
    starts_at_original: list[str] = Field(
        default_factory=list
    )  # run at the original length unless a longer one is asked for
    unscaled_models: list[str] = Field(default_factory=list)  # parts of model types whose factor does not count
    source: Source


class CheckpointKvFormats(ProfileSection):
    """KV-cache formats the engine takes from a checkpoint when no one states another, by the tool that wrote it."""

    modelopt: list[str] = Field(default_factory=list)
    compressed_tensors: list[str] = Field(default_factory=list)
    forced: list[str] = Field(default_factory=list)  # tools whose format is run whatever is asked for
    needs_producer: bool = False  # ModelOpt's file counts as such only where it names its producer
    source: Source


class EngineProfile(ProfileSection):
    """Named defaults of one engine version."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str = Field(min_length=1, max_length=100)
    engine: Literal["vllm", "sglang", "tensorrt-llm", "orca"]
    version: str = Field(min_length=1, max_length=100)
    policy: PolicyName
    router: RouterName
    ranks_router: RouterName | None = None  # over the attention-data-parallel ranks of a replica, if not the same
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)]  # where no ``reserve`` is stated
    # Tokens per step default to no more than max_num_seqs requests of the longest length have.
    caps_tokens_by_context: bool = False
    block_size: Count
    enable_chunked_prefill: bool
    chunked_above_context: Count | None = None  # it is the default only for contexts of more tokens
    unchunked_tokens: Count | None = None  # tokens per step without it, if not the same; never fewer than the context
    enable_prefix_caching: bool
    async_scheduling: bool
    # What an engine cannot schedule ahead of: pipeline stages, drafts, drafts that are looked up in the text.
    async_excludes: list[Literal["pipeline", "drafts", "lookup_drafts"]] = Field(default_factory=list)
    async_pipeline: AsyncPipeline = "staggered"  # when a sequence of a pipeline scheduled ahead decodes again
    pipeline_ranks: PipelineRanks = "any"  # which attention-data ranks need something to run in a micro-batch
    skips_unused_drafts: bool = False  # the draft model rests in steps after which nobody verifies drafts
    reserve_full_isl: bool
    reserves_output: bool = False  # admits a request when prompt and answer have room, so that none is preempted
    scheduler_recv_interval: Count = 1  # policy sglang: decode steps between two looks for requests that have arrived
    # Policy sglang: prompt tokens after which no further prompt joins a step; those of a chunk where they are more.
    max_prefill_tokens: Count | None = None  # None: SGLang's own default
    source: Source  # of the keys that are in no table, and of ``limits``
    mxfp4_experts: ExpertKernels
    kernels: FusedKernels
    expert_routing: ExpertRouting
    launches: Launches
    built_for: BuiltFor
    sustained_load: SustainedLoad
    checkpoint_kv: CheckpointKvFormats
    context: ContextRules
    kernel_families: KernelFamilies | None = None  # None: what its tables ran is all that is known
    layouts: Layouts = NO_LAYOUTS
    price_factors: PriceFactors = AS_FITTED
    load_factors: LoadFactors = NO_LOAD_FACTORS
    shared_expert_tokens: Annotated[int, Field(ge=0)]  # largest step whose shared experts run beside the routed ones
    limits: Annotated[list[BatchLimits], Field(min_length=1)]
    graphs: GraphCapture
    waiting: PromptWaiting | None = None  # an engine without such a setting has none
    host: HostTime
    memory: StartUpMemory
    reserve: MemoryReserve | None = None
    spread: Spread | None = None  # None: intervals hold the errors of prices and constants alone
    pools: PoolRules | None = None  # None: it serves prefill and decode together only
    streaming: AnswerChunks | None = None  # None: every token is sent at once, and the version knows no other way

    # The version asked for, where it has no profile of its own and this one stands in.
    _asked: str | None = None

    @property
    def stands_in_for(self) -> str | None:
        """Name the version that was asked for and has no profile; None where the profile is the one asked for."""
        return self._asked

    def standing_in_for(self, asked: str) -> Self:
        """Return the profile as it stands in for a version that has none."""
        return self.model_copy(update={"_asked": asked})

    @property
    def release(self) -> tuple[int, int] | None:
        """Major and minor version; None where a profile of a user's own states no number."""
        found = re.match(r"v?(\d+)\.(\d+)", self.version)
        return (int(found[1]), int(found[2])) if found else None

    @field_validator("max_prefill_tokens")
    @classmethod
    def _of_sglang(cls, tokens: int | None, info: "ValidationInfo") -> int | None:
        if tokens is not None and info.data.get("policy") != "sglang":
            msg = "only policy sglang has such a limit beside the tokens of a step"
            raise ValueError(msg)
        return tokens

    @field_validator("limits")
    @classmethod
    def _for_every_device(cls, limits: list[BatchLimits]) -> list[BatchLimits]:
        for item in limits:
            if (item.min_memory_gib, item.min_ranks) == (0, 1) and not (
                item.kind or item.only_names or item.except_names
            ):
                return limits
        msg = "none is for every device; one must have min_memory_gib = 0 and no other condition"
        raise ValueError(msg)

    def batch_limits(self, device: DeviceSpec, plan: Plan | None = None) -> BatchLimits:
        """Return the default limits of a replica of ``plan`` on such devices; without a plan, of one device."""
        plan = plan or Plan()
        found = max(
            (item for item in self.limits if item.covers(device, plan.stage_ranks)),
            key=lambda item: (item.kind is not None, item.min_memory_gib, item.min_ranks, self.limits.index(item)),
        )
        ranks = plan.tp * plan.pp if found.per_rank else 1
        return found.model_copy(
            update={
                "max_num_batched_tokens": found.max_num_batched_tokens * ranks,
                "max_num_seqs": found.max_num_seqs * ranks,
            }
        )

    def on(self, device: DeviceSpec, plan: Plan, architecture: str = "") -> Self:
        """Return the profile as it is for a replica of ``plan`` on such devices: its graphs end where theirs do.

        Some versions capture more for models of one ``architecture``.
        """
        own = self.graphs.max_tokens_by_model.get(architecture)
        most = own or self.batch_limits(device, plan).graph_max_tokens
        if most is None or (own is None and most == self.graphs.max_tokens):
            return self
        changed = {"max_tokens": most, "follows_sequences": self.graphs.follows_sequences and own is None}
        return self.model_copy(update={"graphs": self.graphs.model_copy(update=changed)})

    def without_graphs(self) -> Self:
        """Return the profile of a server that is told to capture none (vLLM: ``--enforce-eager``).

        The share of memory that SGLang works out still counts the graphs it would have.
        """
        graphs = self.graphs.model_copy(update={"decode": "none", "mixed": "none"})
        return self.model_copy(update={"graphs": graphs})

    def router_of(self, plan: Plan) -> RouterName:
        """Return how requests are spread over the replicas and ranks of a plan."""
        return self.ranks_router if self.ranks_router is not None and plan.attention_dp > 1 else self.router

    def memory_utilization(self, memory_bytes: int, *, max_num_batched_tokens: int, plan: Plan) -> float:
        """Return the share of device memory for weights and KV (vLLM: and activations) that the engine takes.

        Call it on the profile ``on`` the device: a reserve counts the graphs of that device. It is a share of three
        decimals, as SGLang rounds it.
        """
        if self.reserve is None:
            return self.gpu_memory_utilization
        reserved_mib = self.reserve.mebibytes(
            tokens=max_num_batched_tokens, graph_tokens=self.graphs.max_tokens, plan=plan, memory_bytes=memory_bytes
        )
        return max(0.0, round(1.0 - reserved_mib * 2**20 / memory_bytes, 3))

    def async_conflict(self, *, pp: int, has_drafts: bool, has_lookup_drafts: bool) -> str | None:
        """Name what keeps the engine from scheduling a step ahead; None when nothing does."""
        if self.policy == "vllm-v0":
            return "its V0 engine"
        met = {"pipeline": pp > 1, "drafts": has_drafts, "lookup_drafts": has_lookup_drafts}
        named = {"pipeline": "pipeline stages", "drafts": "drafts", "lookup_drafts": "drafts looked up in the text"}
        return next((named[name] for name in self.async_excludes if met[name]), None)


def load_profile(name_or_path: str) -> EngineProfile:
    """Read an engine profile by bundled name or TOML path, with what it extends; raises ``UserError``.

    A version without a profile is that of the nearest older version, which says so (``stands_in_for``).
    """
    if is_path(name_or_path):
        return check_profile(merge_profile(name_or_path))
    name = profile_for(name_or_path)
    profile = _bundled(name)
    return profile if name == name_or_path else profile.standing_in_for(name_or_path)


@cache
def _bundled(name: str) -> EngineProfile:
    """Read a bundled profile once: every plan of a search asks for the engines that could run it."""
    return EngineProfile.trusted(merge_profile(name).values)


def check_profile(merged: MergedProfile) -> EngineProfile:
    """Check a profile's merged values; raises ``UserError`` with every fault, each after the file that states it."""
    return checked(
        merged.values,
        EngineProfile,
        merged.path_of,
        hint=f'apex engines {DEFAULT_PROFILE} shows every key; extends = "{DEFAULT_PROFILE}" fills in what is missing',
    )
