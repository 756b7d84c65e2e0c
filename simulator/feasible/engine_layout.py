"""A layout as an engine version makes it: what a plan leaves to the engine spelled out, or why it cannot be asked for.

Rules are facts of the engine's profile (``layouts``).
"""

from dataclasses import replace

from simulator.engine_profiles.layouts import Layouts
from simulator.model.spec import ModelSpec, stage_layers
from simulator.plan.plan import Plan


def laid_out(model: ModelSpec, plan: Plan, layouts: Layouts) -> Plan:
    """Return ``plan`` with the layers of its stages and the copies of dense feed-forwards as the engine has them."""
    copies, layers = plan.mlp_dp, plan.stage_layers
    if copies is None and plan.attention_dp > 1:
        copies = own_mlp_copies(plan, layouts)
    if layers is None and model.num_layers % plan.pp and plan.pp < model.num_layers:
        layers = stage_layers(model.num_layers, plan.pp, layouts.leftover_layers)
    return replace(plan, mlp_dp=copies, stage_layers=layers)


def own_mlp_copies(plan: Plan, layouts: Layouts) -> int:
    """Return the copies of a dense feed-forward in a stage, where nobody states them."""
    if plan.attention_dp == 1:
        return 1
    return {"attention_rank": plan.attention_dp, "stage": 1, "device": plan.stage_ranks}[layouts.mlp_copies]


def layout_refusal(engine: str, layouts: Layouts, model: ModelSpec, plan: Plan) -> str | None:
    """Why the engine cannot be told to lay ``model`` out as ``plan``; None where it can."""
    return (
        _attention_refusal(engine, layouts, model, plan)
        or _expert_refusal(engine, layouts, plan)
        or _context_refusal(engine, layouts, plan)
        or _mlp_refusal(engine, layouts, model, plan)
        or _layers_refusal(engine, layouts, model, plan)
    )


def runs_dense_attention_dp(layouts: Layouts, model: ModelSpec) -> bool:
    """Whether the engine parts the attention of a dense model among data-parallel ranks of one replica."""
    return model.architecture in layouts.dense_attention_dp


def _attention_refusal(engine: str, layouts: Layouts, model: ModelSpec, plan: Plan) -> str | None:
    if plan.attention_dp == 1:
        return None
    if not model.has_experts and not runs_dense_attention_dp(layouts, model):
        some = ", ".join(layouts.dense_attention_dp)
        only = f"of dense models for {some} alone" if some else "inside a replica for mixtures of experts alone"
        return (
            f"{engine} has attention data parallelism {only}; replicas (dp{plan.dp * plan.attention_dp}) share nothing"
        )
    if layouts.attention_dp_on_each_device and plan.tp > 1:
        return (
            f"{engine} runs attention data-parallel on each device or not at all: attn.dp is {plan.attention_dp}, must "
            f"be {plan.stage_ranks}"
        )
    return None


def _expert_refusal(engine: str, layouts: Layouts, plan: Plan) -> str | None:
    if plan.moe_dp > 1:
        return f"{engine} keeps one copy of the experts in a stage, moe.dp is {plan.moe_dp}"
    if plan.redundant_experts and not layouts.redundant_experts:
        return f"{engine} holds no expert twice in this version, moe.redundant is {plan.redundant_experts}"
    if plan.ep not in {1, plan.stage_ranks} and not layouts.expert_grids:
        return (
            f"{engine} shards every expert over all ranks of a stage or keeps each whole: ep is {plan.ep}, must be 1 "
            f"or {plan.stage_ranks}"
        )
    return None


def _context_refusal(engine: str, layouts: Layouts, plan: Plan) -> str | None:
    if plan.dcp == 1 or layouts.decode_context:
        return None
    return f"{engine} has no decode context parallelism in this version, dcp is {plan.dcp}"


def _mlp_refusal(engine: str, layouts: Layouts, model: ModelSpec, plan: Plan) -> str | None:
    own = own_mlp_copies(plan, layouts)
    if plan.mlp_dp in {None, own}:
        return None
    if layouts.mlp_on_each_device and model.has_experts and plan.attention_dp > 1 and plan.mlp_dp == plan.stage_ranks:
        return None
    return f"{engine} has {own} copies of a dense feed-forward in a stage of this plan, mlp.dp is {plan.mlp_dp}"


def _layers_refusal(engine: str, layouts: Layouts, model: ModelSpec, plan: Plan) -> str | None:
    if plan.stage_layers is None or layouts.layers_variable is not None or plan.pp > model.num_layers:
        return None
    own = stage_layers(model.num_layers, plan.pp, layouts.leftover_layers)
    if plan.stage_layers == own:
        return None
    return f"{engine} is not told the layers of its stages, and makes them {'_'.join(map(str, own))}"
