"""`apex simulate`: one plan, in detail."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.commands.output_options import OutputFiles, output_options
from simulator.commands.serving_options import load_serving, serving_options
from simulator.commands.trace_options import TRACE_OPTION_NAMES, load_workload, trace_options

if TYPE_CHECKING:
    from simulator.disaggregation import PoolsResult
    from simulator.objective import Slo
    from simulator.plan import Plan
    from simulator.pools import PoolPlan
    from simulator.serving import Serving
    from simulator.simulate import Result
    from simulator.workload.workload import Workload


@click.command()
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
    from simulator.commands.plan_table import plan_table
    from simulator.objective import parse_slo
    from simulator.pools import PoolPlan, parse_layout

    files = OutputFiles(requests_out=requests_out, iterations_out=iterations_out, chrome_trace=chrome_trace)
    files.check(trace, options["model"], options["cluster"])
    plan, slo = parse_layout(plan_text), parse_slo(slos)
    if isinstance(plan, PoolPlan) and files.need_log:
        raise click.UsageError(f"plan {plan}: --iterations-out and --chrome-trace are for plans of one pool")
    workload = load_workload(trace, **{name: options.pop(name) for name in TRACE_OPTION_NAMES})
    serving = load_serving(**options)
    result: Result | PoolsResult
    if isinstance(plan, PoolPlan):
        result = _simulate_pools(serving, plan, workload, slo, files)
    else:
        result = _simulate_plan(serving, plan, workload, slo, files)
    for note in serving.price_notes():
        click.echo(note, err=True)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else plan_table(result))


def _simulate_plan(serving: "Serving", plan: "Plan", workload: "Workload", slo: "Slo", files: OutputFiles) -> "Result":
    from simulator.serving import Refusal
    from simulator.simulate import InfeasibleError, replay, with_interval

    start = serving.start(plan, workload)
    if isinstance(start, Refusal):
        raise InfeasibleError(f"plan {plan} cannot start: {start.reason}")
    result = replay(serving, start, workload, slo, log=files.need_log)
    assert result.run is not None
    files.write(result.run)
    return with_interval(serving, result, workload, slo)


def _simulate_pools(
    serving: "Serving", plan: "PoolPlan", workload: "Workload", slo: "Slo", files: OutputFiles
) -> "PoolsResult":
    from simulator.disaggregation import replay_pools, start_pools, with_pools_interval
    from simulator.serving import Refusal
    from simulator.simulate import InfeasibleError

    starts = start_pools(serving, plan, workload)
    if isinstance(starts, Refusal):
        raise InfeasibleError(f"plan {plan} cannot start: {starts.reason}")
    result = replay_pools(serving, starts, workload, slo)
    assert result.run is not None
    files.write(result.run)
    return with_pools_interval(serving, result, workload, slo)
