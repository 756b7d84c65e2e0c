"""Which engine's command a plan gets, and why some get none."""

from dataclasses import replace

from simulator.feasible.engine_support import engines_for
from simulator.launch.sglang import sglang_lines
from simulator.launch.shell import as_json
from simulator.launch.tensorrt_llm import tensorrt_llm_lines
from simulator.launch.vllm import has_no_place, vllm_lines
from simulator.plan.plan import Plan
from simulator.serving import Serving, StartedPlan


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


def pool_launch_lines(serving: Serving, prefill: StartedPlan, decode: StartedPlan) -> tuple[str, ...]:
    """Return the commands of both pools, joined over NIXL; a remark where the engine has no such servers here."""
    reason = _reason(serving, prefill.plan) or _reason(serving, decode.plan)
    if reason is None and serving.profile.engine not in {"vllm", "sglang"}:
        reason = f"two pools are started on vLLM and SGLang alone, not on {serving.profile.engine}"
    if reason is not None:
        return (f"# no command: {reason}",)
    if serving.profile.engine == "sglang":
        uncached = replace(decode, server=replace(decode.server, enable_prefix_caching=False))
        return (
            "# prefill pool; a router in front sends each request to a server of either pool at once",
            *sglang_lines(serving, prefill, "prefill"),
            "# decode pool",
            *sglang_lines(serving, uncached, "decode"),
        )
    flags = f" --kv-transfer-config {as_json({'kv_connector': 'NixlConnector', 'kv_role': 'kv_both'})}"
    # Drafts run in the decode pool, prefixes are found in the prefill pool: each in that one alone.
    undrafted = replace(prefill, limits=replace(prefill.limits, num_speculative_tokens=0))
    uncached = replace(decode, server=replace(decode.server, enable_prefix_caching=False))
    return (
        "# each server: CUDA_VISIBLE_DEVICES, --port and VLLM_NIXL_SIDE_CHANNEL_PORT of its own",
        "# prefill pool; a proxy in front sends each request here first",
        *vllm_lines(serving, undrafted, flags),
        "# decode pool",
        *vllm_lines(serving, uncached, flags),
    )


def _reason(serving: Serving, plan: Plan) -> str | None:
    """Why nobody can start the plan on the engine simulated."""
    profile = serving.profile
    if profile.engine == "orca":
        return "orca is the idealised engine of the APEX paper, which is no product"
    unsupported = engines_for(serving.model, plan, serving.cluster.device, profile).get(profile.engine)
    if unsupported is not None:
        return unsupported
    return has_no_place(serving, plan) if profile.engine == "vllm" else None
