"""`apex sweep`: plans under one rate of arrivals after the other, and the highest that each keeps up with."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster_specs.command_line import check_outputs, refuse_given, strict_json
from simulator.commands.serving_options import (
    bound_to_model,
    input_files,
    load_serving,
    say_when_compiling,
    serving_options,
)
from simulator.commands.trace_options import TRACE_OPTION_NAMES, load_workload, trace_options
from simulator.commands.unmodelled_options import ServingCommand
from simulator.errors import EXIT_INFEASIBLE

if TYPE_CHECKING:
    from simulator.results.objective import Slo
    from simulator.search.sweep import RatePoint
    from simulator.serving import Refusal, Serving
    from simulator.workload.workload import Workload

_MOST_RATES: Final = 200
_POINTS: Final = 8


def _rates(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[float, ...]:
    """Read ``1:32`` or ``1:32:12`` as a geometric grid, ``1,2,5`` as it is; raises click's error."""
    try:
        rates = _grid(*text.split(":")) if ":" in text else tuple(float(item) for item in text.split(","))
    except (TypeError, ValueError):
        rates = ()
    if not 1 <= len(set(rates)) == len(rates) <= _MOST_RATES or not all(0 < rate < math.inf for rate in rates):
        raise click.BadParameter(
            f"{text!r} is neither LOW:HIGH[:POINTS] nor a list of different rates above 0 (at most {_MOST_RATES})"
        )
    return tuple(sorted(rates))


def _grid(low: str, high: str, points: str = str(_POINTS)) -> tuple[float, ...]:
    """Return ``points`` rates of equal ratio from ``low`` to ``high``; none for what is no grid."""
    first, last, count = float(low), float(high), int(points)
    if not (0 < first < last < math.inf and 2 <= count <= _MOST_RATES):
        return ()
    return (*(first * (last / first) ** (i / (count - 1)) for i in range(count - 1)), last)


@click.command(cls=ServingCommand)
@click.option(
    "--plan", "plans", multiple=True, required=True, metavar="PLAN", help="Plans to sweep: --plan tp8 --plan dp2-tp4."
)
@click.option(
    "--rates",
    required=True,
    callback=_rates,
    metavar="LOW:HIGH[:POINTS]|RATE,...",
    help="Requests per second: 1:32 tries eight on a geometric grid.",
)
@serving_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every metric and interval.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the JSON to a file.")
@trace_options
@click.pass_context
def sweep(
    context: click.Context,
    /,
    *,
    plans: tuple[str, ...],
    rates: tuple[float, ...],
    trace: str,
    slos: tuple[str, ...],
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Simulate plans at several rates of arrivals, and find the knee of each.

    The knee is the highest rate that a plan keeps up with, as it does with every lower one: no queue grows at either
    end of its interval, and no limit of --slo is broken. At each rate the trace is repeated until queues had time to
    grow.
    Exit code 3 when no plan can start.
    """
    from simulator.commands.cannot_act import caps_of, refuse_caps, refuse_idle_options
    from simulator.commands.made_by import digests, made_by
    from simulator.plan.pool_plan import parse_layout
    from simulator.report.rate_table import rate_table
    from simulator.results.objective import parse_slo
    from simulator.search.capacity import check_rate
    from simulator.workload.workload import Workload

    check_outputs([out], input_files(trace, options))
    refuse_given(context, "rate_scale", because="--rates states the rates")
    slo, chosen = parse_slo(slos), list(dict.fromkeys(map(parse_layout, plans)))
    workload = load_workload(trace, **{name: options.pop(name) for name in TRACE_OPTION_NAMES})
    check_rate(workload, "--rates")
    serving, bound = bound_to_model(load_serving(**options), workload)
    assert isinstance(bound, Workload)  # what is given whole stays whole
    workload = bound
    refuse_idle_options(context, serving, workload, chosen, costs=options["costs"])
    refuse_caps(serving, caps_of(chosen))
    say_when_compiling()
    swept, refused = _swept(serving, chosen, workload, rates, slo)
    notes = serving.notes(workload)
    if as_json or out is not None:
        document = strict_json(
            {
                "schema": 1,
                "made_by": made_by(context, digests(serving, workload, slo, options)),
                "notes": notes,
                "plans": [_facts(name, points) for name, points in swept.items()],
                "rejected": [{"plan": str(refusal.plan), "reason": refusal.reason} for refusal in refused],
            }
        )
        if out is not None:
            from cluster_specs.files.whole import write_text

            write_text(out, document + "\n")
    click.echo(document if as_json else rate_table(swept, refused, slo))
    for note in notes:
        click.echo(note, err=True)
    if not swept:
        context.exit(EXIT_INFEASIBLE)


def _swept(
    serving: "Serving", chosen: "list[Any]", workload: "Workload", rates: tuple[float, ...], slo: "Slo"
) -> "tuple[dict[str, list[RatePoint]], list[Refusal]]":
    from simulator.commands.progress import Progress
    from simulator.pools.layouts import start_layout
    from simulator.search.sweep import sweep as run_sweep
    from simulator.serving import Refusal

    swept, refused = {}, []
    for layout in chosen:
        started = start_layout(serving, layout, workload)
        if isinstance(started, Refusal):
            refused.append(started)
        else:
            name = str(started.plan)
            swept[name] = run_sweep(serving, started, workload, rates, slo, on_done=Progress(f"rate of {name}"))
    return swept, refused


def _facts(name: str, points: "list[RatePoint]") -> dict[str, Any]:
    from simulator.search.sweep import knee

    last = knee(points)
    return {
        "plan": name,
        "knee_requests_per_s": None if last is None else last.rate_per_s,
        "rates": [point.to_json() for point in points],
    }
