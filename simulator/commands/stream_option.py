"""`--stream`: whether a workload is simulated part by part, and what keeps it from being so."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from simulator.commands.output_options import OutputFiles
    from simulator.pools.layouts import Layout, Outcome
    from simulator.results.objective import Slo
    from simulator.serving import Serving, StartedPlan
    from simulator.simulate import SimulatedPlan
    from simulator.workload.parts import WorkloadParts

stream_option = click.option(
    "--stream/--no-stream",
    default=None,
    help="Simulate part by part in bounded memory, quantiles within 0.1 %; by itself beyond 2 million requests.",
)


def load_parts(
    trace: str,
    *,
    stream: bool | None,
    layout: "Layout | None",
    needs_all: str | None = None,
    reading: dict[str, Any],
    serving: dict[str, Any],
) -> "WorkloadParts | None":
    """Return the workload in parts, or None where it is to be simulated whole.

    ``stream`` None streams what may have more than ``WHOLE_REQUESTS`` requests and can be streamed, and says so.
    ``layout`` is the one plan that is simulated, None for plans that are judged one by one; ``needs_all`` says what
    else was asked for that needs all requests at once. ``reading`` and ``serving`` are what click collects of the
    trace's and of the serving options. Raises ``NotStreamableError`` where ``stream`` asks for what needs the whole
    workload, ``UserError`` for a fault in it.
    """
    if stream is False:
        return None
    from simulator.commands.trace_options import reading_of
    from simulator.workload.parse_parts import may_hold_more
    from simulator.workload.parts import WHOLE_REQUESTS, NotStreamableError

    chosen = reading_of(**reading)
    if stream is None and not may_hold_more(trace, WHOLE_REQUESTS, limit=chosen["limit"]):
        return None
    try:
        parts = _checked_parts(trace, layout, chosen, serving, needs_all)
    except NotStreamableError as refusal:
        if stream:
            raise
        click.echo(f"note: simulated whole: {refusal}", err=True)
        return None
    if stream is None and len(parts) <= WHOLE_REQUESTS:
        return None
    for note in parts.notes:
        click.echo(f"note: {note}", err=True)
    return parts


def _checked_parts(
    trace: str, layout: "Layout | None", chosen: dict[str, Any], serving: dict[str, Any], needs_all: str | None
) -> "WorkloadParts":
    from simulator.streaming import check_layout
    from simulator.workload.parse_parts import parse_parts
    from simulator.workload.parts import WHOLE_HINT, NotStreamableError

    if layout is not None:
        check_layout(layout, has_drafts=bool(serving["speculative_tokens"]))
    if needs_all is not None:
        raise NotStreamableError(needs_all, hint=WHOLE_HINT)
    parts = parse_parts(trace, **chosen)
    if parts.prefix is not None and serving["prefix_caching"] is not False:
        raise NotStreamableError(
            f"{parts.name} cannot be streamed: its prompts share prefixes, and a cache of them needs all requests at "
            "once",
            hint="add --no-prefix-caching to simulate without the cache",
        )
    return parts


def replay_parts(
    serving: "Serving", start: "StartedPlan", parts: "WorkloadParts", slo: "Slo", files: "OutputFiles"
) -> "SimulatedPlan":
    """Simulate part by part, writing the requests as they are done with."""
    from simulator.outputs.requests import request_table
    from simulator.outputs.tables import write_tables
    from simulator.streaming import replay_stream

    path = files.requests_out
    if path is None:
        return replay_stream(serving, start, parts, slo)
    result = write_tables(
        path,
        lambda write: replay_stream(serving, start, parts, slo, on_part=lambda part: write(request_table(part))),
    )
    click.echo(f"{path}: {len(parts)} requests", err=True)
    return result


def stream_notes(result: "Outcome", slo: "Slo") -> list[str]:
    """Say which figures are approximate and by how much, and which limits are too near to tell."""
    from simulator.results.objective import read_metric
    from simulator.simulate import SimulatedPlan

    if not isinstance(result, SimulatedPlan) or result.quantile_error_frac is None:
        return []
    error = result.quantile_error_frac
    notes = [
        f"streamed: quantiles and the ends of their intervals are within {100 * error:g} % of those of the run in one "
        "piece; counts, sums, times and other means are the same (kv_use_frac to 0.01 %)"
    ]
    for limit in slo.per_plan:
        value = read_metric(result.metrics, limit.path)
        if limit.path in result.approximate and value is not None and abs(value - limit.bound) <= error * limit.bound:
            notes.append(f"{limit} is within {100 * error:g} % of the result: --no-stream tells which side it is on")
    return notes
