"""`apex simulate`: one plan, in detail."""

import json
from pathlib import Path
from typing import Any

import click

from simulator.commands.output_options import OutputFiles, output_options
from simulator.commands.serving_options import load_serving, serving_options
from simulator.commands.trace_options import TRACE_OPTION_NAMES, load_workload, trace_options


@click.command()
@click.option("--plan", "plan_text", required=True, metavar="PLAN", help="For example dp2-tp4 or pp2-tp4-kv.fp8.")
@serving_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@output_options
@trace_options
def simulate(
    *,
    plan_text: str,
    trace: str,
    slos: tuple[str, ...],
    as_json: bool,
    requests_out: Path | None,
    iterations_out: Path | None,
    chrome_trace: Path | None,
    **options: Any,
) -> None:
    """Simulate one plan. Exit code 3 when it cannot start."""
    from simulator.commands.tables import plan_table
    from simulator.objective import parse_slo
    from simulator.plan import parse_plan
    from simulator.serving import Refusal
    from simulator.simulate import InfeasibleError, replay, with_interval

    files = OutputFiles(requests_out=requests_out, iterations_out=iterations_out, chrome_trace=chrome_trace)
    files.check(trace, options["model"], options["cluster"])
    plan, slo = parse_plan(plan_text), parse_slo(slos)
    workload = load_workload(trace, **{name: options.pop(name) for name in TRACE_OPTION_NAMES})
    serving = load_serving(**options)
    start = serving.start(plan, workload)
    if isinstance(start, Refusal):
        raise InfeasibleError(f"plan {plan} cannot start: {start.reason}")
    result = replay(serving, start, workload, slo, log=files.need_log)
    files.write(result.run)
    result = with_interval(serving, result, workload, slo)
    for note in serving.price_notes():
        click.echo(note, err=True)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else plan_table(result))
