"""Which engine's command a plan gets, and why some get none."""

from dataclasses import replace
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from simulator.feasible.engine_support import engines_for
from simulator.launch.sglang import sglang_lines
from simulator.launch.shell import as_json
from simulator.launch.tensorrt_llm import tensorrt_llm_lines
from simulator.launch.vllm import has_no_place, vllm_lines
from simulator.plan.plan import Plan
from simulator.serving import Serving, StartedPlan

_WITH_POOLS: Final = frozenset({"vllm", "sglang"})


def launch_lines(serving: Serving, start: StartedPlan) -> tuple[str, ...]:
    """Return the commands of a plan of one pool; remarks as shell comments, and nothing else where there is none."""
    reason = _reason(serving, start.plan)
    if reason is not None:
        return (f"# no command: {reason}",)
    match serving.profile.engine:
        case "sglang":
            return tuple(sglang_lines(serving, start))
        case "tensorrt-llm":
            return tuple(tensorrt_llm_lines(serving, start))
        case _:
            return tuple(vllm_lines(serving, start))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCommand:
    """How one pool of two is started: the same beside whichever other one."""

    reason: str | None  # why it cannot be
    lines: tuple[str, ...]


def prefill_command(serving: Serving, start: StartedPlan) -> PoolCommand:
    """Return the commands of a prefill pool; drafts run in the decode pool alone."""
    reason = _reason(serving, start.plan)
    if reason is not None or serving.profile.engine not in _WITH_POOLS:
        return PoolCommand(reason=reason, lines=())
    if serving.profile.engine == "sglang":
        remark = "# prefill pool; a router in front sends each request to a server of either pool at once"
        return PoolCommand(reason=None, lines=(remark, *sglang_lines(serving, start, "prefill")))
    undrafted = replace(start, limits=replace(start.limits, num_speculative_tokens=0))
    lines = (
        "# each server: CUDA_VISIBLE_DEVICES, --port and VLLM_NIXL_SIDE_CHANNEL_PORT of its own",
        "# prefill pool; a proxy in front sends each request here first",
        *vllm_lines(serving, undrafted, _nixl_flags()),
    )
    return PoolCommand(reason=None, lines=lines)


def decode_command(serving: Serving, start: StartedPlan) -> PoolCommand:
    """Return the commands of a decode pool; prefixes are found in the prefill pool alone."""
    reason = _reason(serving, start.plan)
    if reason is not None or serving.profile.engine not in _WITH_POOLS:
        return PoolCommand(reason=reason, lines=())
    uncached = replace(start, server=replace(start.server, enable_prefix_caching=False))
    if serving.profile.engine == "sglang":
        return PoolCommand(reason=None, lines=("# decode pool", *sglang_lines(serving, uncached, "decode")))
    return PoolCommand(reason=None, lines=("# decode pool", *vllm_lines(serving, uncached, _nixl_flags())))


def pool_launch_lines(serving: Serving, prefill: PoolCommand, decode: PoolCommand) -> tuple[str, ...]:
    """Return the commands of both pools, joined over NIXL; a remark where the engine has no such servers here."""
    reason = prefill.reason or decode.reason
    if reason is None and serving.profile.engine not in _WITH_POOLS:
        reason = f"two pools are started on vLLM and SGLang alone, not on {serving.profile.engine}"
    return (*prefill.lines, *decode.lines) if reason is None else (f"# no command: {reason}",)


def _nixl_flags() -> str:
    return f" --kv-transfer-config {as_json({'kv_connector': 'NixlConnector', 'kv_role': 'kv_both'})}"


def _reason(serving: Serving, plan: Plan) -> str | None:
    """Why nobody can start the plan on the engine simulated."""
    profile = serving.profile
    if profile.engine == "orca":
        return "orca is the idealised engine of the APEX paper, which is no product"
    unsupported = engines_for(serving.model, plan, serving.cluster.device, profile).get(profile.engine)
    if unsupported is not None:
        return unsupported
    return has_no_place(serving, plan) if profile.engine == "vllm" else None
