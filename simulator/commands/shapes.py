"""`apex shapes`: the op shapes a search will ask for, as a manifest for `apex profile`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_specs.command_line import Command, check_outputs, refuse_given, strict_json
from simulator.commands.axes_options import axes_options, known_formats
from simulator.commands.serving_options import engine_option, extension_option, profile_files, unsupported_option
from simulator.commands.trace_options import media_options, workload_files

if TYPE_CHECKING:
    from simulator.manifest.shapes import Shapes
    from simulator.plan.plan import Plan
    from simulator.pools.layouts import Layout


@click.command(cls=Command)
@click.option(
    "--model", "models", required=True, multiple=True, metavar="NAME|ID|PATH", help="May be given repeatedly."
)
@extension_option
@click.option("--cluster", required=True, metavar="NAME|TOML", help="Bundled cluster, sized name or TOML file.")
@click.option("--trace", metavar="FILE|TEXT", help="Size steps for this trace; sequences of 8192 tokens without it.")
@click.option("--plan", "plans", multiple=True, metavar="PLAN", help="These plans only (tp4, prefill.tp4+decode.tp4).")
@axes_options
@engine_option
@unsupported_option
@click.option("--max-num-seqs", type=click.IntRange(min=1), help="Sequences per step and replica.")
@click.option("--max-num-batched-tokens", type=click.IntRange(min=1), help="Tokens per step and replica.")
@click.option("--max-model-len", type=click.IntRange(min=1), help="Longest sequence.")
@media_options
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@click.option(
    "-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Manifest to write (JSON)."
)
@click.pass_context
def shapes(
    context: click.Context,
    /,
    *,
    models: tuple[str, ...],
    extensions: tuple[Path, ...],
    cluster: str,
    trace: str | None,
    plans: tuple[str, ...],
    weights: tuple[str | None, ...],
    kv: tuple[str | None, ...],
    axes: frozenset[str],
    fewer_devices: bool,
    engine: str,
    allow_unsupported: bool,
    as_json: bool,
    out: Path,
    images: str | None,
    audio_s: str | None,
    **limits: Any,
) -> None:
    """Write the op shapes that searches over these models will ask for.

    Measure them with `apex profile --manifest FILE`. Exit code 3 when no plan can start.
    """
    from cluster_specs.load import load_cluster
    from simulator.engine_profiles.engine_profile import load_profile
    from simulator.feasible.plan_space import Axes, check_axes, enumerate_plans
    from simulator.feasible.server_setup import Overrides
    from simulator.manifest.shapes import collect_shapes
    from simulator.model.extension import load_extensions, refuse_unused
    from simulator.model.load_model import load_model
    from simulator.plan.pool_plan import parse_layout
    from simulator.simulate import InfeasibleError
    from simulator.workload.parse import parse_workload

    if plans:
        refuse_given(context, "weights", "kv", "axes", "fewer_devices", because="--plan states which plans are sized")
    configs = (str(Path(model) / "config.json") for model in models)
    check_outputs(
        [out], [*models, *configs, *map(str, extensions), cluster, *profile_files(engine), *workload_files(trace or "")]
    )
    loaded = load_extensions(extensions)
    read = [load_model(model) for model in models]
    refuse_unused(loaded, *read)
    spec = load_cluster(cluster)
    varied = Axes(
        weight_dtypes=known_formats(weights, "weights"),
        kv_dtypes=known_formats(kv, "kv"),
        allow_fewer_devices=fewer_devices,
        more=axes,
    )
    profile = load_profile(engine)
    for model in read:
        check_axes(model, spec, varied, profile.layouts, profile.name)
    layouts = [parse_layout(text) for text in plans]
    chosen = _plans_of(layouts)
    found = collect_shapes(
        [(model, chosen or enumerate_plans(model, spec, varied, profile.layouts)) for model in read],
        spec,
        profile,
        overrides=Overrides(**limits),
        allow_unsupported=allow_unsupported,
        workload=parse_workload(trace, images=images, audio_s=audio_s) if trace else None,
        images=images,
        audio_s=audio_s,
    )
    if not found.plans:
        last = found.refused[-1]
        raise InfeasibleError(f"no plan can start on {spec.name}; {last.plan}: {last.reason}")
    manifest = found.manifest()
    manifest.save(out)
    click.echo(strict_json(_facts(found, manifest.num_shapes)) if as_json else _table(found, manifest.num_shapes))
    for note in _notes(found, has_pools=len(chosen) > len(layouts)):
        click.echo(f"note: {note}", err=True)


def _plans_of(layouts: "Sequence[Layout]") -> "list[Plan]":
    """Return the plans of all pools."""
    from simulator.plan.pool_plan import PoolPlan

    pools = ((layout.prefill, layout.decode) if isinstance(layout, PoolPlan) else (layout,) for layout in layouts)
    return [plan for of_layout in pools for plan in of_layout]


def _facts(found: "Shapes", total: int) -> dict[str, object]:
    return {
        "schema": 1,
        "shapes": total,
        "families": found.counts(),
        "plans": found.plans,
        "refused": len(found.refused),
        "unreachable": found.unreachable,
    }


def _table(found: "Shapes", total: int) -> str:
    counts = found.counts()
    dtypes = list(dict.fromkeys(dtype for of_family in counts.values() for dtype in of_family))
    lines = [f"{'family':<12}{'shapes':>9}" + "".join(f"{dtype:>11}" for dtype in dtypes)]
    for family, of_family in counts.items():
        cells = "".join(f"{of_family.get(dtype, 0):>11,}" for dtype in dtypes)
        lines.append(f"{family:<12}{sum(of_family.values()):>9,}{cells}")
    lines.append(f"{'all':<12}{total:>9,}")
    return "\n".join(lines)


def _notes(found: "Shapes", *, has_pools: bool) -> list[str]:
    notes = [f"{found.plans} plans compiled; `apex profile` chooses which points of their curves to measure"]
    if found.refused:
        example = found.refused[-1]
        notes.append(f"{len(found.refused)} plans cannot start, e.g. {example.plan}: {example.reason}")
    if found.unreachable:
        notes.append(f"left out: {found.unreachable} decode batches of sequences longer than any may get")
    if found.ungated:
        notes.append("left out: experts without a gate, which no kernel here measures; their price stays analytic")
    if has_pools:
        notes.append("the KV's way between pools is not in the manifest")
    return notes
