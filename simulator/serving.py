"""One model served on one cluster: which plans can start, and with which limits and tables each would run.

`Serving` is what stays the same while plans vary, so that everything plans share (priced op curves) is computed once.
"""

from collections.abc import Callable, Container
from dataclasses import field, replace
from math import ceil, hypot

from cluster_specs.lazy_dataclass import dataclass
from costmodel.cost_model import CostModel
from costmodel.ops.number_formats import SCHEMES
from simulator.engine.bounds import MOST_BLOCKS
from simulator.engine_profiles.constant import error_of
from simulator.engine_profiles.engine_limits import MAX_PREFILL_TOKENS, EngineLimits, RouterName, ServerLimits
from simulator.engine_profiles.spread import NO_SPREAD, Spread
from simulator.feasible.context import context_note, context_of
from simulator.feasible.draft_support import draft_refusal
from simulator.feasible.encoder_rows import encoder_budget
from simulator.feasible.engine_layout import laid_out
from simulator.feasible.engine_support import engines_for
from simulator.feasible.kv_format import KvFormat, kv_format, served
from simulator.feasible.plan_space import check_plan
from simulator.feasible.power_caps import cap_refusal
from simulator.feasible.prompt_waiting import prompt_waiting, waiting_refusal
from simulator.feasible.server_setup import ServerSetup
from simulator.feasible.sizing import Sizing, size_plan
from simulator.feasible.stand_ins import stand_ins
from simulator.memory.plan_memory import MemoryBudget
from simulator.model.cell import KernelChoices
from simulator.plan.plan import Plan
from simulator.plan.pool_plan import PoolPlan
from simulator.plan.refused import Refused, Refuser
from simulator.steps.compile_plan import compile_plan
from simulator.steps.compiled_plan import CompiledPlan
from simulator.steps.op_curves import OpCurves
from simulator.steps.step_ends import ENGINE
from simulator.steps.step_knots import StepShape
from simulator.steps.step_sum import IntervalEnd
from simulator.workload.parts import Traffic
from simulator.workload.workload import CappedLoop, ClosedLoop

CostSource = Callable[[float | None], CostModel]  # clock in MHz, None = unlocked


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedPlan:
    """A plan as an engine would start it: its memory, limits and step tables."""

    plan: Plan
    memory: MemoryBudget
    kv: KvFormat
    server: ServerLimits
    limits: EngineLimits
    router: RouterName
    compiled: CompiledPlan
    frontend_error_s: float = 0.0  # half the 90 % interval of ``limits.frontend_s``
    frontend_gap_error_s: float = 0.0  # and of ``limits.frontend_gap_s``
    notes: tuple[str, ...] = ()  # what was changed so that it starts

    def limits_at(self, end: IntervalEnd, only: Container[str] | None = None) -> EngineLimits:
        """Return the limits where what the engine's constants say of them is at an end: frontend and KV blocks.

        Fewer blocks go with slower steps. ``only``: see `step_ends`.
        """
        if end == "middle" or not (only is None or ENGINE in only):
            return self.limits
        sign, limits = (-1 if end == "low" else 1), self.limits
        one_request = min(limits.num_gpu_blocks, ceil(limits.max_model_len / limits.block_size))
        return replace(
            limits,
            frontend_s=limits.frontend_s + sign * self.frontend_error_s,
            frontend_gap_s=limits.frontend_gap_s + sign * self.frontend_gap_error_s,
            num_gpu_blocks=min(MOST_BLOCKS, max(one_request, limits.num_gpu_blocks - sign * self.memory.blocks_error)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A plan no engine would start, why, and who refuses it."""

    plan: Plan | PoolPlan
    reason: str
    by: Refuser = "apex"

    def __post_init__(self) -> None:
        """Hold every refusal to have a reason: nobody could act on one without."""
        if not self.reason.strip():
            raise ValueError(f"plan {self.plan} is refused without a reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving(ServerSetup):
    """A server and the cost model that prices its steps."""

    costs: CostSource
    allow_unsupported: bool = False  # simulate what the engine does not document as supported
    # Op curves by clock, as fitted; hand one serving's to another that differs in overrides, host times or price
    # factors only, and nothing is priced twice.
    priced: dict[float | None, OpCurves] = field(default_factory=dict, repr=False)

    def start(self, plan: Plan, workload: Traffic) -> StartedPlan | Refusal:
        """Check, size and compile ``plan`` for ``workload``."""
        refused = check_plan(self.model, laid_out(self.model, plan, self.profile.layouts), self.cluster)
        refused = refused or self._engine_refusal(plan)
        refused = refused or self._workload_refusal(plan, workload) or self._cap_refusal(plan)
        if refused is not None:
            return Refusal(plan=plan, reason=refused.reason, by=refused.by)
        kv = kv_format(self.model, plan, self.profile)
        if kv.refusal is not None:
            return Refusal(plan=plan, reason=kv.refusal, by="engine")
        sized = size_plan(self, plan, workload)
        if isinstance(sized, Refused):
            return Refusal(plan=plan, reason=sized.reason, by=sized.by)
        limits = self._engine_limits(plan, sized, workload)
        shape = StepShape(
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_model_len=limits.max_model_len,
            kv_tokens=sized.memory.kv_tokens,
            queries=1 + sized.drafts,
            served_seqs=sized.server.max_num_seqs,
        )
        compiled = compile_plan(
            self.loaded_model,
            served(self.model, plan, self.profile),
            self.curves(plan.clock_mhz),
            profile=sized.profile,
            shape=shape,
            kernels=self.kernels(plan),
            spread=self.spread(plan.clock_mhz),
            context_tokens=workload.mean_context_tokens,
            has_items=workload.items is not None,
            drafts=sized.drafts if self.draft_method == "mtp" else 0,
        )
        host = self.profile.host
        gap_error_s = error_of(host.frontend_token_s) * workload.mean_prompt_tokens
        return StartedPlan(
            plan=plan,
            memory=sized.memory,
            kv=kv,
            server=sized.server,
            limits=limits,
            router=self.overrides.router or self.profile.router_of(plan),
            compiled=compiled,
            frontend_error_s=hypot(error_of(host.frontend_s), gap_error_s),
            frontend_gap_error_s=gap_error_s,
            notes=sized.notes,
        )

    def spread(self, clock_mhz: float | None) -> Spread:
        """Return how far servers lie from their prediction, what stands in for what is asked for included."""
        spread = self.profile.spread
        if spread is None:
            return NO_SPREAD
        found = stand_ins(self.profile, self.curves(clock_mhz).costs.frameworks)
        return spread.widened(item.widths(spread) for item in found)

    def curves(self, clock_mhz: float | None) -> OpCurves:
        """Return the op curves at a clock, shared by every plan that runs at it, with the profile's factors on them."""
        curves = self.priced.get(clock_mhz)
        if curves is None:
            curves = OpCurves(
                self.costs(clock_mhz).of_engine(self.profile.engine),
                weight_only_tile_rows=self.profile.mxfp4_experts.tile_rows_on(self.cluster.device),
                sustained_slowdown_frac=self.profile.sustained_load.slowdown_frac,
            )
            curves = self.priced.setdefault(clock_mhz, curves)  # another thread's, if it was first
        return curves.with_factors(self.profile.price_factors)

    def notes(self, workload: Traffic) -> list[str]:
        """Say what was decided for the user: the longest sequence, where nobody stated it, and what prices rest on."""
        has_items = workload.items is not None
        if self.overrides.max_model_len is not None:
            return self.price_notes(has_items=has_items)
        taken, limit = self.max_model_len(workload), context_of(self.model, self.profile).limit
        needed = workload.longest_tokens
        note = (
            f"max_model_len {taken}: the longest request of {workload.name} needs {needed:,} tokens, "
            f"{self.model.name} takes up to {limit:,}; state --max-model-len where the server gets longer ones"
        )
        return [note, *self.price_notes(has_items=has_items)]

    def price_notes(self, *, has_items: bool = False) -> list[str]:
        """Say what the prices used so far rest on; clocks whose prices rest on the same share a line."""
        notes = list(self.model.notes)
        if self.model.checkpoint_kv is not None:
            kv = kv_format(self.model, Plan(), self.profile)
            notes.append(f"KV cache: {kv.dtype} unless a plan names another; {kv.refusal or kv.why}")
        context = context_note(self.model, self.profile)
        if context is not None:
            notes.append(context)
        if self.model.encoder is not None and self.model.encoder.kind == "vision" and not has_items:
            notes.append(f"requests are text: the {self.model.encoder.kind} tower takes memory but no time")
        notes += [f"requests are text: the {part} takes neither memory nor time" for part in self.model.left_out]
        alike: dict[str, list[str]] = {}
        for clock_mhz, curves in sorted(self.priced.items(), key=lambda item: item[0] or 0.0):
            outside = curves.costs.outside()
            text = curves.costs.origin + (f"; {outside}" if outside else "")
            alike.setdefault(text, []).append("unlocked clocks" if clock_mhz is None else f"{clock_mhz:g} MHz")
        for text, clocks in alike.items():
            at_clocks = "" if clocks == ["unlocked clocks"] else f" at {', '.join(clocks)}"
            notes.append(f"prices{at_clocks}: {text}")
        cap_w = self.cluster.device.power_cap_w
        if cap_w is not None:
            notes.append(
                f"devices are run under the {cap_w:g} W of {self.cluster.name}; caps are modelled, not measured"
            )
        notes += self._stand_in_notes()
        notes += dict.fromkeys(note for curves in self.priced.values() for note in curves.notes())
        return notes

    def _stand_in_notes(self) -> list[str]:
        """Say what stands in for what was asked for, and how much wider that makes the intervals."""
        spread = self.profile.spread
        found = dict.fromkeys(
            item for curves in self.priced.values() for item in stand_ins(self.profile, curves.costs.frameworks)
        )
        return [item.note(spread) for item in found]

    def kernels(self, plan: Plan) -> KernelChoices:
        """Say what is fused: nothing is priced twice where the measured GEMMs already quantise their inputs."""
        costs = self.curves(plan.clock_mhz).costs
        fused = self.profile.kernels
        return KernelChoices(
            activation_quantisation=fused.activation_quantisation,
            all2all=fused.all2all,
            moe_routing=self.profile.expert_routing.skew,
            in_gemm_schemes=frozenset(scheme for scheme in SCHEMES if costs.includes_quantise(scheme)),
            norm_in_all_reduce_bytes=fused.norm_bytes(self.model.architecture, self.model.hidden_size)
            if plan.tp > 1 and plan.attention_dp == plan.moe_dp == plan.mlp_copies == 1
            else 0,
            rope_writes_kv=fused.rope_writes_kv,
            splits_delta_inputs=self.model.architecture in fused.splits_delta_inputs,
            rounds_mxfp4_inputs=self.profile.mxfp4_experts.rounds_inputs_on(self.cluster.device),
        )

    def _engine_refusal(self, plan: Plan) -> Refused | None:
        """Why the profile's engine cannot run the plan, or why its scheduler is not modelled for it."""
        refusal = engines_for(self.model, plan, self.cluster.device, self.profile).get(self.profile.engine)
        if refusal is not None and not self.allow_unsupported:
            return Refused(f"{refusal} (--allow-unsupported simulates it all the same)", "engine")
        if plan.near != "tp" and plan.replica_devices > self.cluster.devices_per_host and not self.allow_unsupported:
            return Refused(
                f"{self.profile.engine} takes the devices of several hosts in their order: near.{plan.near} is for "
                f"replicas of at most {self.cluster.devices_per_host} devices",
                "engine",
            )
        if self.scheduler_recv_interval > 1 and plan.attention_dp > 1:
            return Refused(
                "SGLang takes a scheduler_recv_interval above 1 without attention data parallelism only", "engine"
            )
        if self.profile.policy == "sglang" and plan.pp > 1 and 1 in {plan.max_num_seqs, self.overrides.max_num_seqs}:
            return Refused(
                "SGLang's pipelines hang with one seat: the next chunk of a prompt would wait for a second",
                "engine",
            )
        conflict = self.async_conflict(plan)
        if self.overrides.async_scheduling and conflict is not None:
            return Refused(f"{self.profile.name} does not schedule ahead with {conflict}", "engine")
        refusal = draft_refusal(self, plan)
        if refusal is not None:
            return Refused(refusal, "engine")
        reason = self._not_simulated(plan)
        return None if reason is None else Refused(reason, "apex")

    def _not_simulated(self, plan: Plan) -> str | None:
        """Why the plan is not simulated though the engine may run it."""
        policy = self.profile.policy
        if policy not in {"vllm-v1", "sglang"} and plan.pp > 1:
            return f"policy {policy} is simulated without pipeline stages only"
        if policy == "sglang" and plan.pp > 1 and plan.attention_dp > 1:
            return "attention data parallelism inside pipeline stages is not simulated for policy sglang"
        if self.scheduler_recv_interval > 1 and plan.pp > 1:
            return "a scheduler_recv_interval above 1 is simulated without pipeline stages only"
        if policy not in {"vllm-v1", "sglang"} and plan.attention_dp > 1:
            return f"policy {policy} is simulated without attention data parallelism only"
        if self.overrides.speculative_tokens and policy != "vllm-v1":
            return f"speculative decoding is not simulated for policy {policy}"
        if self.draft_method == "mtp" and plan.pp > 1:
            return "heads of the model that draft are simulated without pipeline stages only"
        return waiting_refusal(self, plan)

    def _engine_limits(self, plan: Plan, sized: Sizing, workload: Traffic) -> EngineLimits:
        """Return what the scheduler may do for ``workload`` on a server of that size."""
        profile, server, memory = sized.profile, sized.server, sized.memory
        max_num_seqs = server.max_num_seqs
        if isinstance(workload.client, ClosedLoop | CappedLoop):
            # No more than the client's own concurrency can ever run; a larger table would only cost time.
            most = max(1, workload.client.concurrency)
            if profile.policy == "sglang":
                # Who is answered keeps a seat until the next decode, and the client's next request is there before.
                # A micro-batch has a share of the seats.
                most = max(most, min(2 * most * plan.pp, server.max_num_batched_tokens))
            max_num_seqs = min(max_num_seqs, most)
        interval, first_chunk = self.answer_chunks()
        # The mean request's time in the tokeniser stands for everybody's.
        tokenising_s = profile.host.frontend_token_s * workload.mean_prompt_tokens
        waiting = prompt_waiting(self, is_chunked=server.enable_chunked_prefill)
        has_ranks = plan.attention_dp > 1
        # Without ids SGLang's requests still find their own prompts after a retraction.
        has_ids = workload.prefix is not None
        return EngineLimits(
            policy=profile.policy,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=server.max_num_batched_tokens,
            max_model_len=server.max_model_len,
            encoder_budget=encoder_budget(profile, self.model, workload, server.max_num_batched_tokens),
            encodes_by_request=profile.policy == "sglang",
            keeps_items_whole=self.model.encoder is not None and self.model.encoder.keeps_items_whole,
            block_size=memory.block_size,
            num_gpu_blocks=memory.usable_blocks,
            enable_chunked_prefill=server.enable_chunked_prefill,
            enable_prefix_caching=server.enable_prefix_caching and (profile.policy == "sglang" or has_ids),
            async_scheduling=server.async_scheduling,
            async_pipeline=profile.async_pipeline,
            pipeline_ranks=profile.pipeline_ranks,
            skips_unused_drafts=profile.skips_unused_drafts,
            reserve_full_isl=profile.reserve_full_isl,
            reserves_output=profile.reserves_output,
            scheduler_recv_interval=server.scheduler_recv_interval,
            max_prefill_tokens=profile.max_prefill_tokens or MAX_PREFILL_TOKENS,
            frontend_s=profile.host.frontend_s + tokenising_s,
            frontend_gap_s=tokenising_s,
            batch_wait_iters=0 if has_ranks else waiting.batch_wait_timeout_iters,
            batch_wait_tokens=ceil(waiting.batch_wait_max_tokens_ratio * server.max_num_batched_tokens),
            ranks_wait_iters=waiting.attention_dp_timeout_iters if has_ranks else 0,
            ranks_batching_iters=waiting.attention_dp_batching_wait_iters,
            stream_interval=interval,
            first_chunk=first_chunk,
            num_speculative_tokens=sized.drafts,
            speculative_acceptance=sized.acceptance,
            draft_step_s=self.overrides.draft_step_s or 0.0,
        )

    def _cap_refusal(self, plan: Plan) -> Refused | None:
        """Why no device holds the plan's power cap; prices are not opened for a plan without one."""
        if plan.power_cap_w is None:
            return None
        reason = cap_refusal(plan.power_cap_w, self.cluster.device, self.curves(plan.clock_mhz).power)
        return None if reason is None else Refused(reason, "device")

    def _workload_refusal(self, plan: Plan, workload: Traffic) -> Refused | None:
        """Why the requests' own conditions are not modelled for the plan."""
        if self.model.is_encoder_decoder and workload.items is None:
            return Refused(f"the encoder of {self.model.name} has nothing to run for these requests", "model")
        has_drafts = bool(self.overrides.speculative_tokens)
        if workload.client_timeout_s is not None and (plan.pp > 1 or plan.attention_dp > 1 or has_drafts):
            return Refused(
                "a client time-out is simulated without pipeline stages, attention data parallelism and speculative "
                "decoding only",
                "apex",
            )
        return None
