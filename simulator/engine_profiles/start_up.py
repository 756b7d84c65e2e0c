"""How an engine divides a device's memory when it starts, by rules and figures that differ between engines.

    share_of_total   KV = share x total - weights - activations - graphs - runtime          (vLLM)
    static_share     KV = share x what is free before loading - weights                     (SGLang)
    share_of_free    KV = share x (total - context - weights - activations - graphs - runtime)  (TensorRT-LLM)

What the first one calls runtime is what the engine sees grow outside its allocator after its first look at the device:
a look after the communicators were made (vLLM from 0.11 on) leaves them out.
"""

import math
from typing import Annotated, Literal

from cluster_specs.files.declared import Field
from simulator.engine_profiles.constant import error_of
from simulator.engine_profiles.profile_section import Count, Gibibytes, Kibibytes, Mebibytes, ProfileSection, Source
from simulator.model.expert_layout import ExpertKernel
from simulator.plan.plan import Plan


class StateRule(ProfileSection):
    """Where the states of linear-attention layers are kept; see `state_blocks`.

    ``pages``: in the blocks of the KV cache; ``pool``: in memory of their own, a fixed multiple of the KV cache's.
    """

    layout: Literal["pages", "pool"]
    is_block_per_sequence: bool = False  # pages: does not start with more sequences than there are blocks
    pool_ratio: Annotated[float, Field(ge=0, le=100)] = 0.0  # pool: its memory over that of the KV cache
    pool_states_per_sequence: Count = 1  # pool: with a prefix cache, whose entries need states too
    source: Source


class StartUpMemory(ProfileSection):
    """What the engine sets aside beside weights and KV, per device; ``source`` says where the figures come from."""

    rule: Literal["share_of_total", "static_share", "share_of_free"]
    context_mib: Mebibytes = 0.0  # taken by the driver before the engine looks; counts under the last two rules
    runtime_mib: Mebibytes  # modules, workspaces and whatever else grows outside the allocator
    communicator_mib: Mebibytes  # more of it per group that communicates in a stage: tensor ranks, attention ranks
    slow_communicator_mib: Mebibytes | None = None  # same, on devices joined by no NVLink or its like; None = as there
    deepep_mib: Mebibytes = 0.0  # a buffer of DeepEP, where it spreads tokens; another where its ranks span nodes
    logit_bytes: Annotated[float, Field(ge=0, le=1024)]  # held at once per sampled row and vocabulary entry
    # Inner results of the fused experts: one allocation all layers share and keep, or freed after each layer.
    expert_workspace: Literal["kept", "transient"]
    # Kernels of MXFP4 experts that take theirs from the kept allocation; those of other formats all do.
    workspace_kernels: list[ExpertKernel] = Field(default_factory=list)
    graph_layer_kib: Kibibytes  # of one captured graph of one layer, where memory is set aside for graphs
    expert_chunk_tokens: Count | None = None  # tokens the fused experts work through at once; None = the whole step
    states: StateRule | None = None  # None: they weigh on the blocks of a request's mean context
    source: Source

    def runtime_bytes(self, plan: Plan, *, has_fast_links: bool = True, deepep_buffers: int = 0) -> int:
        """Bytes on one device of ``plan``, communicators and ``deepep_buffers`` buffers of DeepEP included.

        Tensor ranks reduce in one group, attention-data ranks gather tokens in another; each has a communicator, whose
        buffers grow when the profile run first uses it (vLLM ``distributed/parallel_state.py``).
        """
        slow = self.slow_communicator_mib
        communicator = self.communicator_mib if has_fast_links or slow is None else slow
        groups = (plan.tp > 1) + (plan.attention_dp > 1)
        return int((self.runtime_mib + groups * communicator + deepep_buffers * self.deepep_mib) * 2**20)

    def error_bytes(self, plan: Plan, share: float, *, graphs: float = 0.0, has_fast_links: bool = True) -> float:
        """Return half the 90 % interval of what is left for KV, as far as the figures here are off.

        ``share`` is what the rule means by it, ``graphs`` the captured graphs times the layers of a stage.
        """
        slow = self.slow_communicator_mib
        communicator = self.communicator_mib if has_fast_links or slow is None else slow
        groups = (plan.tp > 1) + (plan.attention_dp > 1)
        parts = [error_of(self.runtime_mib), groups * error_of(communicator)]
        if self.rule != "share_of_total":
            parts.append(error_of(self.context_mib))
        if self.rule != "static_share":
            parts.append(graphs * error_of(self.graph_layer_kib) / 2**10)
        return math.hypot(*parts) * 2**20 * (1.0 if self.rule == "share_of_total" else share)


class MemoryReserve(ProfileSection):
    """Device memory an engine leaves free for everything but weights and KV, in MiB; replaces a fixed fraction."""

    constant: Mebibytes
    per_batched_token: Mebibytes
    least_batched_tokens: Count = 1
    per_graph_sequence: Mebibytes
    per_rank: Mebibytes
    # Per graph sequence and attention rank, where attention runs data-parallel; more above so many graph sequences.
    per_attention_rank: Mebibytes = 0.0
    per_attention_rank_wide: Mebibytes = 0.0
    wide_graph_sequences: Count = 1
    least: Mebibytes = 0.0  # at least this much on devices of more than so many GiB
    least_above_gib: Gibibytes = 0.0
    source: Source

    def mebibytes(self, *, tokens: int, graph_tokens: int, plan: Plan, memory_bytes: int) -> float:
        """Return what is left free on each device; ``tokens`` are those a replica's step takes, of all its ranks."""
        total = (
            self.constant
            + self.per_batched_token * max(tokens, self.least_batched_tokens)
            + self.per_graph_sequence * graph_tokens
            + self.per_rank * plan.replica_devices
        )
        if plan.attention_dp > 1:
            wide = self.per_attention_rank_wide if graph_tokens > self.wide_graph_sequences else 0.0
            total += (self.per_attention_rank + wide) * graph_tokens * plan.attention_dp
        return max(total, self.least) if memory_bytes > self.least_above_gib * 2**30 else total
