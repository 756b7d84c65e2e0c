"""Rows that stand apart: vendor sweeps, unrecorded drafts, suspects; and rows that a rule rejects."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks.fidelity.page.engines import of_engine, of_server, own_errors, peer_errors
from benchmarks.fidelity.page.runs import repeat_noise
from benchmarks.fidelity.page.tables import folded, percent, spelled, table
from benchmarks.fidelity.replay import Point
from benchmarks.fidelity.rows import ENGINES, MAPPING, METRICS, PEERS
from simulator.validation.implausible import __doc__ as rejection_rules
from simulator.validation.measured_run import UnusableRun
from simulator.validation.point_mapping import read_mapping

_TITLES: Final = {
    "vendor": "vendor sweeps: fixed lengths, unknown client and limits",
    "drafts": "an image that ran with speculative decoding only, which rows do not record; replayed without",
    "sweep": "servers with speculative decoding by the benchmark's search space: a rule of our own, see below",
    "suspect": "suspects: look like prefix-cache hits or a lower real concurrency",
}


def apart_section(points: Sequence[Point], together: Sequence[Point], starts: Mapping[str, int]) -> Iterator[str]:
    """Write the errors of rows that no figure above counts; ``together``: where all slots of vendors start at once.

    ``starts`` are the seconds within which each vendor's slots start in ``points``, learnt from the other vendors.
    """
    yield "## Rows that stand apart\n\n"
    yield "MAPE / median / p90 / signed bias in percent; no constant was estimated from them.\n\n"
    rows = []
    for kind, title in _TITLES.items():
        for name in dict.fromkeys(point.row.server.name for point in points if point.row.server.set == kind):
            chosen, at_once = of_server(points, name), of_server(together, name)
            for path, metric in METRICS.items():
                own, other = own_errors(chosen, path), own_errors(at_once, path)
                peers = [spelled(peer_errors(chosen, path, column)) for column in PEERS]
                spread = f"{starts[name]} s" if name in starts else "-"
                rows.append((name, metric, len(chosen), spelled(own), spread, spelled(other), *peers))
        yield f"*{kind}*: {title}.\n\n"
    yield (
        "*Starts*: seconds within which a vendor's slots start, learnt from the other vendors' servers. Fixed lengths "
        "and slots that\nstart at once march in waves, the worst case of TTFT.\n\n"
    )
    yield table(("server", "metric", "rows", "apex", "starts", "all at once", *PEERS.values()), rows, texts=2)


def sweep_section(left_out: Sequence[Point], apart: Sequence[Point]) -> Iterator[str]:
    """Write the errors of engines with the servers that our own rule sets apart, and without them."""
    added = [point for point in apart if point.row.server.set == "sweep"]
    yield (
        "A server counts as one with drafts where the benchmark's own search space (the settings that each of its "
        "launch files\nran) has its layout for drafts only, or for servers with and without them, which rows do not "
        "tell apart. No row is\nchosen by what it measured. That rule is not one of rejection; MAPE / median / p90 / "
        "bias with it and without:\n\n"
    )
    rows = []
    for engine, name in ENGINES.items():
        inside, more = of_engine(left_out, engine), of_engine(added, engine)
        for path, metric in METRICS.items() if more else ():
            errors = (spelled(own_errors(points, path)) for points in (inside, [*inside, *more]))
            rows.append((name, metric, *errors, len(more)))
    yield table(("engine", "metric", "with the rule", "without", "rows more"), rows, texts=2)


def rejected_section(points: Sequence[Point]) -> Iterator[str]:
    """Write the rules and every row that one of them rejects, and the rows that were refused."""
    columns = ("server", "row", "why")
    rejected = [(point.row.server.name, point.row.run) for point in points if isinstance(point.row.run, UnusableRun)]
    refused = [
        (point.row.server.name, point.found)
        for point in points
        if isinstance(point.found, UnusableRun) and point.found is not point.row.run
    ]
    rules = (rejection_rules or "").partition("\n\n")[2].strip()
    mapping = read_mapping(MAPPING)
    trust = mapping.trust
    assert trust is not None
    here = (
        f"Here: {100 * trust.most_of_peak_frac:g} % of the dense peak, {trust.most_concurrency} requests at once, "
        f"{100 * trust.most_faster_frac:g} % of TPOT."
    )
    yield folded(
        f"{len(rejected)} rejected rows", f"{rules}\n\n{here}\n\n{table(columns, _reasons(rejected), texts=3)}"
    )
    if refused:
        yield folded(f"{len(refused)} rows whose plan would not start", table(columns, _reasons(refused), texts=3))
    profiles = {point.row.server.name: point.row.profile.name for point in points}
    notes = [
        f"* {server.name}: profile `{profiles[server.name]}`" + (f"; {server.caveat}" if server.caveat else "") + "\n"
        for server in mapping.server
    ]
    noise = ", ".join(
        f"{metric} by {percent(found)} %"
        for path, metric in METRICS.items()
        if (found := repeat_noise([(point.row.setting, point.row.measured(path)) for point in points])) is not None
    )
    text = "".join(notes) + f"\nRepeats of one setting differ in {noise} (median).\n"
    yield folded(f"{len(notes)} servers of {len(ENGINES)} engines, and what stands in for what", text)


def _reasons(found: Sequence[tuple[str, UnusableRun]]) -> list[tuple[str, str, str]]:
    return [(server, f"`{run.name}`", run.reason) for server, run in found]
