"""What a plan's server starts with: limits by the engine's rules and the user's settings, and the memory they take."""

from collections.abc import Callable
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.acceptance import Acceptance, acceptance_fault
from simulator.engine_profiles.batch_limits import BatchLimits
from simulator.engine_profiles.engine_limits import ServerLimits
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.feasible.context import context_of
from simulator.feasible.encoder_rows import kept_rows
from simulator.feasible.kv_format import served
from simulator.feasible.server_setup import Overrides, ServerSetup
from simulator.memory.plan_memory import MemoryBudget, plan_memory
from simulator.memory.state_limit import fit_states
from simulator.model.expert_layout import EXPERT_LAYOUTS
from simulator.plan.plan import Plan
from simulator.plan.refused import Refused
from simulator.workload.parts import Traffic

_FAST_LINKS: Final = ("nvlink", "infinity-fabric")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """A plan as its server sizes itself; ``profile`` is the engine's on this device, ``notes`` say what was changed."""

    profile: EngineProfile
    server: ServerLimits
    memory: MemoryBudget
    drafts: int
    acceptance: Acceptance
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a server is started with, before its memory is known; ``tokens`` of one attention-data-parallel rank."""

    profile: EngineProfile
    defaults: BatchLimits
    max_model_len: int
    caches_prefixes: bool
    is_chunked: bool
    sharing_ranks: int  # whose tokens per step are counted together
    tokens: int
    drafts: int
    acceptance: Acceptance


def size_plan(setup: ServerSetup, plan: Plan, workload: Traffic) -> Sizing | Refused:
    """Size ``plan``, or say why it cannot start; raises ``UserError`` for settings that contradict each other."""
    overrides = setup.overrides
    asked = _asked(setup, plan, workload)
    if plan.max_num_seqs is not None and plan.max_num_seqs > asked.tokens:
        reason = f"max_num_seqs is {plan.max_num_seqs}, must be at most max_num_batched_tokens = {asked.tokens}"
        return Refused(reason, "settings")
    profile = asked.profile
    utilization = overrides.gpu_memory_utilization or profile.memory_utilization(
        setup.cluster.device.memory_bytes, max_num_batched_tokens=asked.tokens * asked.sharing_ranks, plan=plan
    )
    fitted = fit_states(
        _memory_by_sequences(setup, plan, asked, utilization, workload),
        plan.max_num_seqs or _max_num_seqs(overrides, asked.defaults.max_num_seqs, asked.tokens),
        profile.memory.states,
        is_stated=(plan.max_num_seqs or overrides.max_num_seqs) is not None,
        has_full_graphs=profile.graphs.decode == "full",
    )
    if isinstance(fitted, str):
        return Refused(fitted, "device")
    memory, max_num_seqs, notes = fitted
    if profile.policy == "sglang" and asked.tokens % memory.block_size:
        return Refused(
            f"max_num_batched_tokens is {asked.tokens}, must be a multiple of block_size = {memory.block_size}: SGLang "
            "does not start otherwise",
            "settings",
        )
    server = ServerLimits(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=asked.tokens,
        max_model_len=asked.max_model_len,
        gpu_memory_utilization=utilization,
        block_size=memory.block_size // plan.dcp,
        enable_prefix_caching=asked.caches_prefixes,
        enable_chunked_prefill=asked.is_chunked,
        async_scheduling=_chosen(overrides.async_scheduling, profile.async_scheduling)
        and setup.async_conflict(plan) is None,
        enforce_eager=overrides.enforce_eager,
        cudagraph_mode=overrides.cudagraph_mode,
        max_cudagraph_capture_size=overrides.max_cudagraph_capture_size,
        scheduler_recv_interval=setup.scheduler_recv_interval,
        reserve_full_isl=profile.reserve_full_isl,
    )
    return Sizing(
        profile=profile, server=server, memory=memory, drafts=asked.drafts, acceptance=asked.acceptance, notes=notes
    )


def _asked(setup: ServerSetup, plan: Plan, workload: Traffic) -> _Asked:
    """Settle every setting that does not depend on memory; raises ``UserError`` where two contradict each other."""
    device, overrides = setup.cluster.device, setup.overrides
    profile = setup.profile_on_device(plan)
    defaults = profile.batch_limits(device, plan)
    max_model_len = setup.max_model_len(workload)
    _refuse_for_encoder_decoder(setup)
    is_whole = setup.model.is_encoder_decoder  # engines compute their prompts whole, and share no prefixes
    chunked = not is_whole and _chosen(overrides.enable_chunked_prefill, _is_chunked(setup, profile))
    shared = plan.attention_dp if profile.policy == "sglang" else 1  # SGLang's chunk is for all ranks together
    budget = plan.max_num_batched_tokens or overrides.max_num_batched_tokens
    if budget is None:
        tokens = _default_tokens(profile, overrides, plan, defaults, max_model_len, chunked=chunked)
        budget = max(1, tokens // shared)
    if not chunked:
        budget = max(budget, max_model_len)
    drafts, acceptance = _drafts(setup, budget)
    return _Asked(
        profile=profile,
        defaults=defaults,
        max_model_len=max_model_len,
        caches_prefixes=not is_whole and _chosen(overrides.enable_prefix_caching, profile.enable_prefix_caching),
        is_chunked=chunked,
        sharing_ranks=shared,
        tokens=budget,
        drafts=drafts,
        acceptance=acceptance,
    )


def _refuse_for_encoder_decoder(setup: ServerSetup) -> None:
    """Refuse what engines switch off for encoder-decoders; raises ``UserError``."""
    if not setup.model.is_encoder_decoder:
        return
    stated = (
        ("--chunked-prefill", setup.overrides.enable_chunked_prefill),
        ("--prefix-caching", setup.overrides.enable_prefix_caching),
    )
    for option, value in stated:
        if value:
            raise UserError(
                f"{option} cannot act: engines switch it off for encoder-decoders such as {setup.model.name}",
                hint="leave it out",
            )


def _memory_by_sequences(
    setup: ServerSetup, plan: Plan, asked: _Asked, utilization: float, workload: Traffic
) -> Callable[[int], MemoryBudget]:
    """Return the memory of the server as a function of its sequences per step."""
    device, overrides, profile = setup.cluster.device, setup.overrides, asked.profile
    kernel = profile.mxfp4_experts.on(device)
    model = setup.loaded_model.with_expert_layout(EXPERT_LAYOUTS[kernel])
    run = served(setup.model, plan, setup.profile)
    encoder_rows = kept_rows(profile, setup.model, workload, asked.tokens)

    def sized(seqs: int) -> MemoryBudget:
        return plan_memory(
            model,
            run,
            device,
            start_up=profile.memory,
            gpu_memory_utilization=utilization,
            block_size=(overrides.block_size or profile.block_size) * plan.dcp,  # a block of every rank that shares
            max_num_batched_tokens=asked.tokens,
            max_num_seqs=seqs,
            max_model_len=asked.max_model_len,
            num_gpu_blocks=overrides.num_gpu_blocks,
            captured_graphs=profile.graphs.reserved_graphs(seqs * (1 + asked.drafts)),
            expert_kernel=kernel,
            context_tokens=workload.mean_context_tokens,
            caches_prefixes=asked.caches_prefixes,
            has_fast_links=any(link.kind in _FAST_LINKS for link in setup.cluster.levels),
            deepep_buffers=_deepep_buffers(setup, plan),
            encoder_rows=encoder_rows,
        )

    return sized


def _deepep_buffers(setup: ServerSetup, plan: Plan) -> int:
    """Buffers through which DeepEP spreads tokens of attention-data ranks: within a node, and between nodes."""
    if setup.profile.kernels.all2all != "deepep" or plan.attention_dp == 1 or plan.ep == 1:
        return 0
    return 1 if plan.stage_ranks <= setup.cluster.devices_per_host else 2


def _is_chunked(setup: ServerSetup, profile: EngineProfile) -> bool:
    """Whether the engine splits prompts when nobody says so; old ones decide by the context they are started with."""
    least = profile.chunked_above_context
    if not profile.enable_chunked_prefill or least is None:
        return profile.enable_chunked_prefill
    return (setup.overrides.max_model_len or context_of(setup.model, profile).default) > least


def _default_tokens(
    profile: EngineProfile,
    overrides: Overrides,
    plan: Plan,
    defaults: BatchLimits,
    max_model_len: int,
    *,
    chunked: bool,
) -> int:
    """Tokens per step nobody states: the engine's own, or all that its requests can have where it stops there."""
    if not chunked and profile.unchunked_tokens is not None:
        return profile.unchunked_tokens
    if not profile.caps_tokens_by_context:
        return defaults.max_num_batched_tokens
    seqs = plan.max_num_seqs or overrides.max_num_seqs or defaults.max_num_seqs
    return min(defaults.max_num_batched_tokens, seqs * max_model_len)


def _max_num_seqs(overrides: Overrides, default: int, budget: int) -> int:
    """Sequences per step: what the user states, else the default as far as a step has tokens for it."""
    stated = overrides.max_num_seqs
    if stated is None:
        return min(default, budget)
    if stated > budget:
        raise UserError(
            f"max_num_seqs is {stated}, must be at most max_num_batched_tokens = {budget}",
            hint="every running sequence needs a token per step: raise --max-num-batched-tokens",
        )
    return stated


def _drafts(setup: ServerSetup, budget: int) -> tuple[int, Acceptance]:
    """Draft tokens per step and their acceptance; none unless stated."""
    overrides = setup.overrides
    drafts, acceptance = overrides.speculative_tokens, overrides.speculative_acceptance
    if not drafts:
        if acceptance is not None or overrides.draft_step_s is not None or overrides.speculative_method is not None:
            raise UserError(
                "speculative_acceptance, speculative_method and draft_step_s say how drafts fare, but there are none",
                hint="state speculative_tokens as well",
            )
        return 0, 0.0
    if acceptance is None:
        raise UserError(
            f"speculative_tokens is {drafts} without speculative_acceptance",
            hint="the acceptance depends on model, drafts and text: measure it, servers log it",
        )
    fault = acceptance_fault(acceptance, drafts)
    if fault is not None:
        raise UserError(f"speculative_acceptance {fault}", hint="state one number, or a share for each draft of a step")
    _check_method(setup)
    if drafts >= budget:
        raise UserError(f"speculative_tokens is {drafts}, must be less than max_num_batched_tokens = {budget}")
    return drafts, acceptance


def _check_method(setup: ServerSetup) -> None:
    """Refuse a draft model without its time, a time without a draft model, and heads that a model does not have."""
    method, step_s = setup.draft_method, setup.overrides.draft_step_s
    if method == "draft_model" and step_s is None:
        raise UserError("speculative_method is draft_model without draft_step_s", hint="state what it adds to a step")
    if method != "draft_model" and step_s is not None:
        raise UserError(
            f"draft_step_s is {step_s:g}, but speculative_method {method} has no draft model",
            hint="leave it out: heads of the model are priced, and looking drafts up takes no time",
        )
    if method == "mtp" and not setup.model.draft_layers:
        raise UserError(
            f"{setup.model.name} has no multi-token-prediction layer (num_nextn_predict_layers of its config.json)",
            hint="draft with --speculative-method ngram, or with a draft model",
        )


def _chosen(stated: bool | None, default: bool) -> bool:
    return default if stated is None else stated
