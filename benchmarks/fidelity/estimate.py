"""Learns constants and spreads of engine profiles from measured servers, leaving one server out at a time.

    python -m benchmarks.fidelity.estimate --groundtruth DIR [--engine vllm] [--workers N]

Prints a table of constants, the errors of each server with its fold's constants, and TOML for the profiles. Nothing is
written: what goes into a profile is decided by a person.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.fidelity.constants import CONSTANTS
from benchmarks.fidelity.coverage import coverage
from benchmarks.fidelity.left_out import Estimate, Estimation, estimate
from benchmarks.fidelity.page.engines import of_engine, of_server, own_errors
from benchmarks.fidelity.page.tables import spelled
from benchmarks.fidelity.replay import replay, validated
from benchmarks.fidelity.rows import ENGINES, METRICS, Row, read_rows
from benchmarks.fidelity.widths import held_left_out, width
from simulator.calibration.evidence import TPOT, TTFT

# Half a 90 % interval in standard deviations.
_HALF_WIDTH: Final = 1.645
_NO_SPREAD: Final = {
    "spread.step_frac": 0.0,
    "spread.own_step_frac": 0.0,
    "spread.first_token_frac": 0.0,
    "spread.own_first_token_frac": 0.0,
}


def main() -> None:
    """Estimate, and print what a person would put into the profiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groundtruth", type=Path, default=Path("../shared/groundtruth"))
    parser.add_argument("--engine", choices=tuple(ENGINES), help="of this engine's servers alone")
    parser.add_argument("--workers", type=int, default=2, help="processes to replay with")
    options = parser.parse_args()
    rows = [
        row
        for row in read_rows(options.groundtruth / "serving_points.csv")
        if row.server.set == "public" and options.engine in {None, row.engine}
    ]
    found = estimate(rows, CONSTANTS, workers=options.workers)
    for line in (*_constants(found), *_servers(found), *_widths(rows, found, options.workers)):
        print(line)


def _constants(found: Estimation) -> Iterator[str]:
    for item in found.estimates:
        told = "" if item.is_identified else " (too few servers: kept)"
        yield (
            f"{item.constant.name:42} {item.stated:.3g} -> {item.value:.3g} +- {item.error:.2g}, folds "
            f"{item.lowest:.3g} to {item.highest:.3g}, {len(item.servers)} servers{told}"
        )
    yield ""
    for engine in ENGINES:
        own = [item for item in found.estimates if engine in item.constant.engines]
        if own:
            yield from (f"# {ENGINES[engine]}", *(_toml(item) for item in own if item.is_identified), "")


def _toml(item: Estimate) -> str:
    error = min(item.value, _HALF_WIDTH * item.error)
    return f"{item.constant.key} = {{ value = {item.value:.3g}, error = {error:.2g} }}"


def _servers(found: Estimation) -> Iterator[str]:
    for name in dict.fromkeys(point.row.server.name for point in found.left_out):
        for path, metric in METRICS.items():
            cells = [
                spelled(own_errors(of_server(points, name), path))
                for points in (found.base, found.in_sample, found.left_out)
            ]
            yield f"{name:45} {metric}  as it is {cells[0]}   in sample {cells[1]}   left out {cells[2]}"
    for engine, name in ENGINES.items():
        for path, metric in METRICS.items():
            left, inside = (own_errors(of_engine(p, engine), path) for p in (found.left_out, found.in_sample))
            if left and inside:
                ratio = left.mape_frac / inside.mape_frac
                yield (
                    f"{name:15} {metric}  left out {spelled(left)}   in sample {spelled(inside)}   ratio {ratio:.2f}"
                )
    yield ""


def _widths(rows: list[Row], found: Estimation, workers: int) -> Iterator[str]:
    """Replay the left-out servers without spread, then with the spread of steps found, and say what is left."""
    variant = replace(found.left_out_variant, changes=_NO_SPREAD)
    bare = replay(rows, (variant,), workers=workers)[variant.name]
    for engine, name in ENGINES.items():
        own = validated(of_engine(bare, engine))
        if not own:
            continue
        steps = width(own, TPOT)
        changes = {**_NO_SPREAD, "spread.step_frac": steps.whole}
        servers = [row for row in rows if row.engine == engine]
        with_steps = validated(replay(servers, (replace(variant, changes=changes),), workers=workers)[variant.name])
        first = width(with_steps, TTFT)
        yield f"# {name}: {steps.servers} servers"
        wide = width(own, TPOT, rows_alike=True), width(with_steps, TTFT, rows_alike=True)
        yield f"step_frac = {steps.whole:.2f}\nown_step_frac = {steps.own:.2f}"
        yield f"first_token_frac = {first.whole:.2f}\nown_first_token_frac = {first.own:.2f}"
        yield f"# with the same weight for each row: {wide[0].whole:.2f} of steps, {wide[1].whole:.2f} of first tokens"
        held = [f"{title} {item.inside:.0%}" for path, title in METRICS.items() if (item := coverage(own, path))]
        yield f"# inside without a spread: {', '.join(held)}"
        for path, runs in ((TPOT, own), (TTFT, with_steps)):
            shares = held_left_out(runs, path)
            cells = ", ".join(f"{share:.0%} of {server}" for server, share in shares.items())
            mean = sum(shares.values()) / max(1, len(shares))
            yield f"# {METRICS[path]} inside with the spread of the other servers: {mean:.0%} ({cells})"
        yield ""


if __name__ == "__main__":
    main()
