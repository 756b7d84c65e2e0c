"""The CUDA graphs a server is told to capture: none, up to another size, or in another mode than its own.

A mode is one of vLLM's names: which steps run as one graph, in pieces between the attention calls, or without.
"""

from cluster_specs.errors import UserError
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.graph_modes import GRAPH_MODES, GraphMode


def with_stated_graphs(
    profile: EngineProfile, *, enforce_eager: bool, mode: GraphMode | None, max_size: int | None
) -> EngineProfile:
    """Return ``profile`` with the graphs a user states; raises ``UserError`` for what its engine cannot be told."""
    if not (enforce_eager or mode or max_size):
        return profile
    graphs = profile.graphs
    if {graphs.decode, graphs.mixed} == {"none"}:
        told = "--enforce-eager" if enforce_eager else "--cudagraph-mode" if mode else "--max-cudagraph-capture-size"
        raise UserError(
            f"{told} cannot act: {profile.name} captures no graphs", hint="leave it out, or choose another --engine"
        )
    if enforce_eager:
        if mode or max_size:
            raise UserError(
                "--enforce-eager says that no graphs are captured, "
                f"{'--cudagraph-mode' if mode else '--max-cudagraph-capture-size'} says which",
                hint="state one of them",
            )
        return profile.without_graphs()
    if profile.policy == "vllm-v0":
        raise UserError(
            f"{profile.name} captures a fixed list of sizes in one mode",
            hint="leave --cudagraph-mode and --max-cudagraph-capture-size out, or choose vllm-0.10 or newer",
        )
    changed: dict[str, object] = {}
    if mode:
        if profile.engine != "vllm":
            raise UserError(
                f"--cudagraph-mode names modes of vLLM, {profile.name} has none of them",
                hint="leave it out, or state [graphs] decode and mixed in a profile of your own",
            )
        changed["decode"], changed["mixed"] = GRAPH_MODES[mode]
    if max_size:
        changed |= {"max_tokens": max_size, "follows_sequences": False}
    return profile.model_copy(update={"graphs": graphs.model_copy(update=changed)})
