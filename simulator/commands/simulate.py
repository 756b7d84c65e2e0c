"""`apex simulate`: one plan, in detail."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster_specs.command_line import strict_json
from simulator.commands.output_options import OutputFiles, output_options
from simulator.commands.serving_options import (
    bound_to_model,
    input_files,
    load_serving,
    say_when_compiling,
    serving_options,
)
from simulator.commands.stream_option import load_parts, replay_parts, stream_notes, stream_option
from simulator.commands.trace_options import TRACE_OPTION_NAMES, load_workload, trace_options
from simulator.commands.unmodelled_options import ServingCommand
from simulator.errors import EXIT_INFEASIBLE

if TYPE_CHECKING:
    from simulator.pools.layouts import Layout, Outcome
    from simulator.results.objective import Limit, Slo
    from simulator.serving import Serving
    from simulator.workload.parts import WorkloadParts
    from simulator.workload.workload import Workload

_STEPS_OF_A_RUN: Final = "--iterations-out and --chrome-trace cannot be streamed: they keep every step of the run"


@click.command(cls=ServingCommand)
@click.option(
    "--plan",
    "plan_text",
    required=True,
    metavar="PLAN",
    help="For example dp2-tp4, pp2-tp4-kv.fp8 or prefill.tp4+decode.tp4.",
)
@serving_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@output_options
@stream_option
@trace_options
@click.pass_context
def simulate(
    context: click.Context,
    /,
    *,
    plan_text: str,
    trace: str,
    slos: tuple[str, ...],
    as_json: bool,
    requests_out: Path | None,
    iterations_out: Path | None,
    chrome_trace: Path | None,
    stream: bool | None,
    **options: Any,
) -> None:
    """Simulate one plan. Exit code 3 when it cannot start or breaks a limit of --slo."""
    from simulator.commands.cannot_act import caps_of, refuse_caps, refuse_idle_options
    from simulator.commands.made_by import digests, made_by
    from simulator.plan.pool_plan import PoolPlan, parse_layout
    from simulator.report.plan_table import plan_table
    from simulator.results.objective import parse_slo

    files = OutputFiles(requests_out=requests_out, iterations_out=iterations_out, chrome_trace=chrome_trace)
    files.check(input_files(trace, options))
    plan, slo = parse_layout(plan_text), parse_slo(slos)
    if isinstance(plan, PoolPlan) and files.need_log:
        raise click.UsageError(f"plan {plan}: --iterations-out and --chrome-trace are for plans of one pool")
    reading = {name: options.pop(name) for name in TRACE_OPTION_NAMES}
    needs_all = _STEPS_OF_A_RUN if files.need_log else None
    parts = load_parts(trace, stream=stream, layout=plan, needs_all=needs_all, reading=reading, serving=options)
    workload = load_workload(trace, **reading) if parts is None else parts
    serving, workload = bound_to_model(load_serving(**options), workload)
    refuse_idle_options(context, serving, workload, [plan], costs=options["costs"])
    refuse_caps(serving, caps_of([plan]))
    say_when_compiling()
    result = _replayed(serving, plan, workload, slo, files)
    notes = [*result.notes, *serving.notes(workload), *stream_notes(result, slo)]
    for note in notes:
        click.echo(note, err=True)
    breaks = slo.broken(result.metrics)
    if as_json:
        facts = result.to_json() | {"notes": notes, "breaks": [str(limit) for limit in breaks]}
        click.echo(strict_json(facts | {"made_by": made_by(context, digests(serving, workload, slo, options))}))
    else:
        click.echo(plan_table(result))
    if breaks:
        _say_what_breaks(result, breaks)
        context.exit(EXIT_INFEASIBLE)


def _replayed(
    serving: "Serving", plan: "Layout", workload: "Workload | WorkloadParts", slo: "Slo", files: OutputFiles
) -> "Outcome":
    """Start the plan, run it whole or in parts, and write the files asked for."""
    from simulator.plan.pool_plan import PoolPlan
    from simulator.pools.layouts import replay_layout, start_layout, with_layout_interval
    from simulator.serving import Refusal
    from simulator.simulate import InfeasibleError
    from simulator.workload.parts import WorkloadParts

    if isinstance(workload, WorkloadParts):
        assert not isinstance(plan, PoolPlan)  # refused when the parts were opened
        start = serving.start(plan, workload)
        if isinstance(start, Refusal):
            raise InfeasibleError(f"plan {plan} cannot start: {start.reason}")
        return replay_parts(serving, start, workload, slo, files)
    started = start_layout(serving, plan, workload)
    if isinstance(started, Refusal):
        raise InfeasibleError(f"plan {plan} cannot start: {started.reason}")
    result = replay_layout(serving, started, workload, slo, log=files.need_log)
    assert result.run is not None
    files.write(result.run)
    return with_layout_interval(serving, result, workload, slo)


def _say_what_breaks(result: "Outcome", breaks: "Sequence[Limit]") -> None:
    from simulator.report.formats import form_of
    from simulator.results.objective import read_metric

    for limit in breaks:
        value = form_of(limit.path)(read_metric(result.metrics, limit.path))
        click.echo(f"plan {result.plan} breaks {limit}: {value}", err=True)
