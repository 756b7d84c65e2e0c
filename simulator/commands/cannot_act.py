"""Options that cannot act on what they were given with: refused, since an option without effect is a wrong belief."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import click

from cluster_specs.command_line import given, refuse_given
from cluster_specs.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.pools.layouts import Layout
    from simulator.serving import Serving
    from simulator.workload.parts import Traffic
    from simulator.workload.workload import Workload

_OF_BATCHES: Final = ("batch_wait_timeout_iters", "batch_wait_max_tokens_ratio")
_OF_RANKS: Final = ("attention_dp_timeout_iters", "attention_dp_batching_wait_iters")


def refuse_idle_options(
    context: click.Context,
    serving: "Serving",
    workload: "Traffic",
    layouts: "Iterable[Layout] | None",
    *,
    costs: "Path | None",
) -> None:
    """Refuse serving options that no plan of ``layouts`` (None: all plans of the cluster) can feel.

    ``costs`` is the cost model asked for: None, a file, or ``analytic``.

    Raises ``UserError`` that names the flag and why it cannot act.
    """
    from costmodel.bundled_fits import bundled_fit

    if str(costs) == "analytic" or (costs is None and bundled_fit(serving.cluster.device.name) is None):
        refuse_given(context, "out_of_domain", because="these prices have no measured domain to be outside of")
    if layouts is not None:
        _refuse_idle_waiting(context, layouts)
    if workload.replica is not None:
        refuse_given(context, "router", because=f"the trace {workload.name} names the replica of each request")
    elif layouts is not None and not any(_is_routed(layout) for layout in layouts):
        refuse_given(context, "router", because="no plan named has more than one replica")


def _refuse_idle_waiting(context: click.Context, layouts: "Iterable[Layout]") -> None:
    """Refuse settings of how prompts wait that concern layouts none of which is named."""
    from simulator.plan.plan import Plan

    plans = [layout for layout in layouts if isinstance(layout, Plan)]  # no pool has prompts beside decodes
    if all(plan.attention_dp == 1 for plan in plans):
        refuse_given(context, *_OF_RANKS, because="no plan named has attention-data-parallel ranks in one pool")
    if all(plan.attention_dp > 1 for plan in plans):
        refuse_given(context, *_OF_BATCHES, because="no plan named is one pool without attention-data-parallel ranks")


def caps_of(layouts: "Iterable[Layout]") -> list[tuple[str, float | None]]:
    """Return the power caps that plans state, each with the plan it stands in."""
    from simulator.plan.plan import Plan

    sides = [
        (f"plan {layout}", side)
        for layout in layouts
        for side in ([layout] if isinstance(layout, Plan) else [layout.prefill, layout.decode])
    ]
    return [(place, side.power_cap_w) for place, side in sides]


def refuse_caps(serving: "Serving", caps: "Iterable[tuple[str, float | None]]") -> None:
    """Refuse power caps, each with the place it was asked for at, that no device of the cluster can hold."""
    from simulator.feasible.power_caps import check_cap

    for place, power_cap_w in caps:
        if power_cap_w is not None:
            check_cap(power_cap_w, serving.cluster.device, serving.curves(None).power, place)


def refuse_idle_caching(context: click.Context, runs: "Iterable[tuple[Serving, Workload]]") -> None:
    """Refuse to turn the prefix cache of measured servers on or off where none of them feels it.

    A cache acts where prompts share a prefix, where it keeps states of linear attention beside the running ones, and
    under SGLang, whose retracted requests find their own prompts again.
    """
    from simulator.model.cell import keeps_state

    if not given(context, "prefix_caching"):
        return
    for serving, workload in runs:
        cells = [cell for block in serving.model.unique_blocks for cell in block.cells]
        keeps_states = any(keeps_state(cell) and cell.is_recurrent for cell in cells)
        if workload.prefix is not None or serving.profile.policy == "sglang" or keeps_states:
            return
    refuse_given(
        context,
        "prefix_caching",
        because="the results do not say which prompts share a prefix, so that nothing can be found in a cache",
    )


def refuse_covered_limits(context: click.Context, **axes: tuple[int | None, ...]) -> None:
    """Refuse a limit stated for all plans where every plan states its own: ``seqs`` and ``tokens`` are axes."""
    for axis, stated in (("seqs", "max_num_seqs"), ("tokens", "max_num_batched_tokens")):
        if axes[axis] and None not in axes[axis]:
            refuse_given(
                context,
                stated,
                because=f"every plan tried has a value of --{axis}",
                hint=f"write default into --{axis} to try the stated one as well",
            )


def refuse_rate_of_closed_loop(rate_scale: float, workload: "Workload") -> None:
    """Refuse to scale the rate of requests that no clock sends."""
    from simulator.workload.workload import ClosedLoop

    if rate_scale != 1.0 and isinstance(workload.client, ClosedLoop):
        raise UserError(
            f"--rate-scale cannot act: {workload.name} is a closed loop, whose requests follow one another",
            hint="change its concurrency instead",
        )


def _is_routed(layout: "Layout") -> bool:
    from simulator.plan.pool_plan import PoolPlan

    sides = (layout.prefill, layout.decode) if isinstance(layout, PoolPlan) else (layout,)
    return any(side.dp * side.attention_dp > 1 for side in sides)
