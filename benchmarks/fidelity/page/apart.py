"""Rows that stand apart: vendor sweeps, unrecorded drafts, suspects; and rows that a rule rejects."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks.fidelity.groups import ENGINES, GROUPS
from benchmarks.fidelity.left_out import METRICS, trusted
from benchmarks.fidelity.page.engines import PEERS, of_engine, own_errors, peer_errors
from benchmarks.fidelity.page.runs import repeat_noise
from benchmarks.fidelity.page.tables import folded, percent, table
from benchmarks.fidelity.rejection import __doc__ as rejection_rules
from benchmarks.fidelity.replay import Point

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
        for group in GROUPS:
            chosen = [point for point in trusted(points) if point.group.name == group.name and group.kind == kind]
            at_once = [point for point in trusted(together) if point.group.name == group.name]
            for metric in METRICS if chosen else ():
                own, other = own_errors(chosen, metric), own_errors(at_once, metric)
                peers = [str(peer_errors(chosen, metric, column) or "none") for column in PEERS]
                spread = f"{starts[group.name]} s" if group.name in starts else "-"
                rows.append((group.name, metric.upper(), len(chosen), own, spread, other, *peers))
        yield f"*{kind}*: {title}.\n\n"
    yield (
        "*Starts*: seconds within which a vendor's slots start, learnt from the other vendors' servers. Fixed lengths "
        "and slots that\nstart at once march in waves, the worst case of TTFT.\n\n"
    )
    yield table(("server", "metric", "rows", "apex", "starts", "all at once", *PEERS.values()), rows, texts=2)


def sweep_section(left_out: Sequence[Point], apart: Sequence[Point]) -> Iterator[str]:
    """Write the errors of engines with the servers that our own rule sets apart, and without them."""
    added = [point for point in apart if point.group.kind == "sweep"]
    yield (
        "A server counts as one with drafts where the benchmark's own search space (the settings that each of its "
        "launch files\nran) has its layout for drafts only, or for servers with and without them, which rows do not "
        "tell apart. No row is\nchosen by what it measured. That rule is not one of rejection; MAPE / median / p90 / "
        "bias with it and without:\n\n"
    )
    rows = []
    for engine, name in ENGINES.items():
        inside, more = of_engine(left_out, engine), of_engine(added, engine)
        for metric in METRICS if more else ():
            both = [*inside, *more]
            rows.append((name, metric.upper(), own_errors(inside, metric), own_errors(both, metric), len(more)))
    yield table(("engine", "metric", "with the rule", "without", "rows more"), rows, texts=2)


def rejected_section(points: Sequence[Point]) -> Iterator[str]:
    """Write the rules and every row that one of them rejects, and the rows that were refused."""
    columns = ("server", "row", "why")
    rejected = [(point, point.rejected) for point in points if point.rejected is not None]
    refused = [(point, point.refused) for point in points if point.rejected is None and point.refused is not None]
    rules = (rejection_rules or "").partition("\n\n")[2].strip()
    yield folded(f"{len(rejected)} rejected rows", f"{rules}\n\n{table(columns, _reasons(rejected), texts=3)}")
    if refused:
        yield folded(f"{len(refused)} rows whose plan would not start", table(columns, _reasons(refused), texts=3))
    notes = [
        f"* {group.name}: profile `{group.profile}`" + (f"; {group.caveat}" if group.caveat else "") + "\n"
        for group in GROUPS
    ]
    noise = ", ".join(
        f"{metric.upper()} by {percent(found)} %"
        for metric in METRICS
        if (found := repeat_noise([(point.setting(), point.measured(metric)) for point in points])) is not None
    )
    text = "".join(notes) + f"\nRepeats of one setting differ in {noise} (median).\n"
    yield folded(f"{len(GROUPS)} servers of {len(ENGINES)} engines, and what stands in for what", text)


def _reasons(found: Sequence[tuple[Point, str | None]]) -> list[tuple[str, str, str]]:
    return [(point.group.name, f"`{point.row['id']}`", why or "") for point, why in found]
