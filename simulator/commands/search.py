"""`apex search`: the best plans of a model on a cluster for a trace."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_specs.command_line import check_outputs, refuse_given, strict_json
from simulator.commands.axes_options import (
    axes_options,
    known_formats,
    listed_caps,
    listed_clocks,
    listed_counts,
)
from simulator.commands.serving_options import (
    bound_to_model,
    input_files,
    load_serving,
    say_when_compiling,
    serving_options,
)
from simulator.commands.stream_option import load_parts, stream_option
from simulator.commands.trace_options import TRACE_OPTION_NAMES, load_workload, trace_options
from simulator.commands.unmodelled_options import ServingCommand
from simulator.errors import EXIT_INFEASIBLE

if TYPE_CHECKING:
    from simulator.feasible.plan_space import Axes
    from simulator.pools.layouts import Layout
    from simulator.search.judged_plans import JudgedPlans
    from simulator.search.search_result import SearchResult
    from simulator.serving import Serving
    from simulator.workload.parts import Traffic

_METRICS_HELP = """
\b
Metrics of --objective and --slo:
  ttft_s, tpot_s, itl_s, e2e_s, queue_s   with .mean, .p50, .p90, .p95 or .p99
  throughput_tokens_per_s (output), throughput_total_tokens_per_s,
  throughput_requests_per_s, duration_s
  goodput_requests_per_s, slo_attainment_frac   requests that keep every limit
                                                on a request
  sustainable_requests_per_s   most traffic that keeps every limit on the plan
                               (--objective alone)
  energy_j, energy_j_per_output_token, usd_per_million_output_tokens
  mfu_frac, mbu_frac
"""


@click.command(cls=ServingCommand, epilog=_METRICS_HELP)
@serving_options
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    default=["e2e_s.mean"],
    metavar="METRIC",
    help="What to rank by; of several, plans that none beats in all of them come first.",
)
@click.option(
    "--plan", "plans", multiple=True, metavar="PLAN", help="Search these plans only (dp2-tp4, prefill.tp4+decode.tp4)."
)
@axes_options
@click.option(
    "--clocks", callback=listed_clocks, metavar="MHZ,...", help="Locked SM clocks to try (default,1410: also unlocked)."
)
@click.option(
    "--caps",
    callback=listed_caps,
    metavar="WATTS,...",
    help="Power caps per device to try (default,350: also without one).",
)
@click.option("--seqs", callback=listed_counts, metavar="N,...", help="Values of max_num_seqs to try.")
@click.option("--tokens", callback=listed_counts, metavar="N,...", help="Values of max_num_batched_tokens to try.")
@click.option(
    "--formats-together",
    is_flag=True,
    help="Rank plans in coarser formats than the checkpoint's, which change its answers, among the others.",
)
@click.option("--pools", is_flag=True, help="Also try prefill and decode on devices of their own.")
@click.option(
    "--explain-space",
    is_flag=True,
    help="Say which plans there are, and who refuses which and why; simulate none.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads; all cores without it.")
@click.option("--top", type=click.IntRange(min=1), default=10, help="Rows of the table.")
@click.option("--interval/--no-interval", default=True, help="90 % intervals of the metrics of the --top plans.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, every plan in it.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the JSON to a file.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the answer as a page: one HTML file that loads nothing.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that keeps each plan as it is judged; the same search goes on from there.",
)
@stream_option
@trace_options
@click.pass_context
def search(
    context: click.Context,
    /,
    *,
    trace: str,
    objectives: tuple[str, ...],
    slos: tuple[str, ...],
    plans: tuple[str, ...],
    weights: tuple[str | None, ...],
    kv: tuple[str | None, ...],
    clocks: tuple[float | None, ...],
    caps: tuple[float | None, ...],
    seqs: tuple[int | None, ...],
    tokens: tuple[int | None, ...],
    axes: frozenset[str],
    fewer_devices: bool,
    formats_together: bool,
    pools: bool,
    explain_space: bool,
    threads: int | None,
    top: int,
    interval: bool,
    as_json: bool,
    out: Path | None,
    report: Path | None,
    state: Path | None,
    stream: bool | None,
    **options: Any,
) -> None:
    """Find the best plan for a model, a cluster and a request trace.

    Every plan replays the trace under the engine's batching rules; plans that cannot start are listed with the reason.
    Exit code 3 when none can, or none that can keeps the limits.
    """
    import time

    from simulator.commands.cannot_act import caps_of, refuse_caps, refuse_covered_limits, refuse_idle_options
    from simulator.commands.made_by import digests, made_by
    from simulator.commands.progress import Progress
    from simulator.feasible.plan_space import Axes, check_axes
    from simulator.plan.pool_plan import parse_layout
    from simulator.report.formats import counted
    from simulator.results.objective import parse_objectives, parse_slo
    from simulator.search.search import needs_all_requests, with_intervals
    from simulator.search.search import search as run_search

    started = time.perf_counter()
    check_outputs([out, state, report], input_files(trace, options))
    if report is not None:
        from simulator.report.search_page import require_page

        require_page("--report")
    (aim, *further), slo = parse_objectives(objectives), parse_slo(slos)
    chosen = list(dict.fromkeys(map(parse_layout, plans))) or None
    varied = Axes(
        weight_dtypes=known_formats(weights, "weights"),
        kv_dtypes=known_formats(kv, "kv"),
        clocks_mhz=clocks,
        power_caps_w=caps,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        allow_fewer_devices=fewer_devices,
        pools=pools,
        more=axes,
    )
    _refuse_axes_of_stated_plans(varied, chosen)
    refuse_covered_limits(context, seqs=seqs, tokens=tokens)
    reading = {name: options.pop(name) for name in TRACE_OPTION_NAMES}
    needs_all = needs_all_requests([aim, *further], pools=pools)
    parts = load_parts(trace, stream=stream, layout=None, needs_all=needs_all, reading=reading, serving=options)
    workload = load_workload(trace, **reading) if parts is None else parts
    serving, workload = bound_to_model(load_serving(**options), workload)
    refuse_idle_options(context, serving, workload, chosen, costs=options["costs"])
    refuse_caps(serving, [("--caps", cap_w) for cap_w in caps] if chosen is None else caps_of(chosen))
    check_axes(serving.model, serving.cluster, varied, serving.profile.layouts, serving.profile.name)
    if explain_space:
        _explain(context, serving, workload, varied, chosen, as_json=as_json)
        return
    say_when_compiling()

    rests_on = digests(serving, workload, slo, options, [aim, *further]) if state or out or as_json else {}
    with _kept(state, rests_on) as kept:
        progress = Progress("plan", known=0 if kept is None else kept.found)
        found = run_search(
            serving,
            workload,
            aim,
            slo=slo,
            axes=varied,
            plans=chosen,
            threads=threads,
            on_done=progress,
            kept=kept,
            formats_together=formats_together,
            further=further,
        )
    if interval:
        # A table shows the objective's alone, and how likely limits are kept.
        of = [limit.path for limit in slo.per_plan] if out is report is None and not as_json else None
        found = with_intervals(found, serving, workload, slo, first=top, of=of, threads=threads)
    found.made_by.update(made_by(context, rests_on) if out or as_json else {})
    found.inputs.update(_inputs(serving, workload, trace, found, slos))
    if found.best is not None:
        found.notes.extend(f"{found.best.plan}: {note}" for note in found.best.notes)
    found.notes.extend(serving.notes(workload))
    _deliver(found, serving, workload, top=top, as_json=as_json, out=out, report=report)
    click.echo(f"{counted(len(found.simulated), 'plan')} simulated in {time.perf_counter() - started:.1f} s", err=True)
    if not found.simulated:
        _explain_infeasible(serving, workload, found)
    if found.best is None:
        context.exit(EXIT_INFEASIBLE)


def _explain(
    context: click.Context,
    serving: "Serving",
    workload: "Traffic",
    axes: "Axes",
    chosen: "Sequence[Layout] | None",
    *,
    as_json: bool,
) -> None:
    """Print the plan space; refuse what only acts where plans are simulated."""
    from simulator.report.space_table import space_table
    from simulator.search.space import explain_space

    only_simulated = (
        "objectives",
        "slos",
        "threads",
        "top",
        "interval",
        "out",
        "report",
        "state",
        "stream",
        "formats_together",
    )
    refuse_given(context, *only_simulated, because="--explain-space simulates nothing")
    space = explain_space(serving, workload, axes, chosen)
    click.echo(strict_json(space.to_json()) if as_json else space_table(space, serving))


@contextmanager
def _kept(state: Path | None, inputs: Mapping[str, str]) -> "Iterator[JudgedPlans | None]":
    """Open the file that keeps judged plans, and say how many are there; nothing without one."""
    if state is None:
        yield None
        return
    from simulator.report.formats import counted
    from simulator.search.judged_plans import kept_in

    with kept_in(state, inputs) as kept:
        if kept.found:
            click.echo(f"{state}: {counted(kept.found, 'plan')} judged before", err=True)
        yield kept


def _refuse_axes_of_stated_plans(axes: "Axes", chosen: "Sequence[Layout] | None") -> None:
    """Refuse axes to vary where the plans are stated one by one."""
    from simulator.feasible.plan_space import Axes

    if chosen and axes != Axes():
        raise click.UsageError(
            "--plan states what is searched: --weights, --kv, --axes, --clocks, --caps, --seqs, --tokens, "
            "--fewer-devices and --pools have nothing to vary; write tp4-w.fp8-kv.fp8-f1410-cap350-s256-t8192 or "
            "prefill.tp4+decode.tp4"
        )


def _deliver(
    found: "SearchResult",
    serving: "Serving",
    workload: "Traffic",
    *,
    top: int,
    as_json: bool,
    out: Path | None,
    report: Path | None,
) -> None:
    """Write the files that were asked for, print the answer, and say its notes."""
    if as_json or out is not None or report is not None:
        from simulator.report.search_document import search_document

        document = search_document(found, serving, workload)
    if out is not None:
        from cluster_specs.files.whole import write_text

        write_text(out, strict_json(document) + "\n")
    if report is not None:
        from simulator.report.search_page import write_search_page

        write_search_page(report, document)
        click.echo(f"wrote {report}", err=True)
    if as_json:
        click.echo(strict_json(document))
    else:
        from simulator.report.search_table import search_table

        click.echo(search_table(found, serving, workload, top=top))
    for note in found.notes:
        click.echo(note, err=True)


def _inputs(
    serving: "Serving", workload: "Traffic", trace: str, found: "SearchResult", slos: tuple[str, ...]
) -> dict[str, Any]:
    """Return what the answer depends on, so that a saved result explains itself."""
    curves = next(iter(serving.priced.values()), None) or serving.curves(None)
    return {
        "model": serving.model.name,
        "cluster": serving.cluster.name,
        "device": serving.cluster.device.name,
        "device_memory_bytes": serving.cluster.device.memory_bytes,
        "engine": serving.profile.name,
        "costs": curves.costs.origin,
        "trace": trace,
        "requests": len(workload),
        "objective": found.objective.path,
        **({"further_objectives": [one.path for one in found.further]} if found.further else {}),
        "slos": list(slos),
    }


def _explain_infeasible(serving: "Serving", workload: "Traffic", found: "SearchResult") -> None:
    from simulator.search.search import smallest_cluster

    closest = found.refused[-1]
    click.echo(
        f"error: {serving.model.name} runs on no plan of {serving.cluster.name}; {closest.plan}: {closest.reason}",
        err=True,
    )
    cluster, enough = serving.cluster, smallest_cluster(serving, workload)
    if enough is None:
        hint = f"no number of {cluster.device.name} would do; try --weights fp8 or --kv fp8"
    elif enough.num_devices <= cluster.num_devices:
        hint = "memory is not what is missing; the reasons above say what is"
    else:
        hint = f"the smallest cluster that would do is {enough.num_devices} x {cluster.device.name} as {enough}"
    click.echo(f"hint: {hint}", err=True)
