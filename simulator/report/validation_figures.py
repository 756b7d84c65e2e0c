"""Measured runs beside their predictions, as figures: parity, error by load, distributions.

Colours are those of Okabe and Ito (2008), which people with the common colour deficiencies tell apart; from the eighth
server on, marks tell them apart as well.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from simulator.report.validation_servers import short
from simulator.validation.distributions import LatencyDistribution
from simulator.validation.predict import ValidatedRun
from simulator.validation.predict_all import server_of

Array = NDArray[np.float64]

_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKS: Final = "os^Dv*P"
_BANDS: Final = ((0.2, "#f3f3f3"), (0.1, "#e4e4e4"))
_WIDTH_IN: Final = 9.5
_HEIGHT_IN: Final = 5.2
_MOST_ROWS: Final = 8  # of a figure of distributions
_COLUMNS: Final = 3  # of a figure by load
_PANEL_IN: Final = 1.35
_TITLE_WIDTH: Final = 350.0  # of a panel: points times letters that fit over it
_LEAST_ERROR: Final = 0.25  # ends of its axis: the nearest, and the furthest
_MOST_ERROR: Final = 0.60
_EDGE: Final = 0.96  # of the axis, where what is beyond it is drawn
_LOW: Final = 1e-9


def parity_figure(runs: Sequence[ValidatedRun], path: str) -> Figure:
    """Predicted against measured, with the 90 % interval of each prediction as a bar."""
    figure, axes = _figure(f"{short(path)}: predicted against measured")
    known = [run for run in runs if run.error_frac(path) is not None]
    values = [value for run in known for value in (run.run.measured[path], run.predicted[path])]
    ends = np.array([min(values) / 1.25, max(values) * 1.25])
    for share, colour in _BANDS:
        axes.fill_between(ends, ends * (1 - share), ends * (1 + share), color=colour, linewidth=0, zorder=0)
    axes.plot(ends, ends, color="#888888", linewidth=0.8, zorder=1)
    for index, (server, own) in enumerate(_by_server(known).items()):
        measured = np.array([run.run.measured[path] for run in own])
        predicted = np.array([run.predicted[path] for run in own])
        intervals = np.array(
            [run.interval.get(path, (value, value)) for run, value in zip(own, predicted, strict=True)]
        )
        reach = np.maximum(0.0, np.stack([predicted - intervals[:, 0], intervals[:, 1] - predicted]))
        axes.errorbar(
            measured,
            predicted,
            yerr=reach,
            fmt=_mark(index),
            color=_COLOURS[index % len(_COLOURS)],
            markersize=4,
            elinewidth=0.5,
            alpha=0.75,
            label=server,
        )
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured", ylabel="predicted")
    _units(axes, path)
    axes.set_aspect("equal")
    _legend_beside(axes)
    return figure


def load_figure(runs: Sequence[ValidatedRun], path: str) -> Figure:
    """Error of every run by the requests that are under way in its prediction, a panel for each server.

    Errors beyond the axis are drawn at its end, as triangles.
    """
    servers = {name: _errors_by_load(own, path) for name, own in _by_server(runs).items()}
    furthest = float(np.abs(np.concatenate(list(servers.values()))[:, 1]).max(initial=0.0))
    reach = min(_MOST_ERROR, max(_LEAST_ERROR, 1.05 * furthest))
    columns = min(_COLUMNS, len(servers))
    rows = math.ceil(len(servers) / columns)
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + _PANEL_IN * rows), layout="constrained")
    figure.suptitle(f"{short(path)}: error by load", fontsize=11, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (server, own) in zip(grid.flat, servers.items(), strict=False):
        for share in (-0.2, 0.0, 0.2):
            axes.axhline(share, color="#888888" if share == 0 else "#dddddd", linewidth=0.8, zorder=0)
        _draw_errors(axes, own, reach)
        axes.set_title(server, fontsize=min(7.0, _TITLE_WIDTH / len(server)), loc="left", pad=2)
        axes.set_xscale("log", base=2)
        axes.set_ylim(-reach, reach)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.tick_params(which="both", labelsize=7)
    for axes in grid.flat[len(servers) :]:
        axes.set_axis_off()
    for place in range(max(0, len(servers) - columns), len(servers)):  # the last of their columns
        grid.flat[place].tick_params(labelbottom=True)
    figure.supxlabel("requests under way (predicted mean)", fontsize=8)
    figure.supylabel("predicted / measured - 1", fontsize=8)
    return figure


def _errors_by_load(runs: Sequence[ValidatedRun], path: str) -> Array:
    """Return [runs, 2] of load and error, of the runs that have both."""
    found = [
        (load, error)
        for run in runs
        if (load := _under_way(run)) is not None and (error := run.error_frac(path)) is not None
    ]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _draw_errors(axes: Axes, points: Array, reach: float) -> None:
    """Draw errors within ``reach`` as dots and those beyond as triangles at the end of the axis."""
    for mark, where in (
        ("o", np.abs(points[:, 1]) <= reach),
        ("^", points[:, 1] > reach),
        ("v", points[:, 1] < -reach),
    ):
        load, error = points[where].T
        error = np.clip(error, -_EDGE * reach, _EDGE * reach) if mark != "o" else error
        axes.plot(load, error, mark, color=_COLOURS[0], markersize=4, linestyle="none", alpha=0.75)


def distribution_figure(runs: Sequence[tuple[str, Sequence[LatencyDistribution]]]) -> Figure:
    """Distribution functions of each latency, measured and predicted, a row for each run."""
    shown = runs[:_MOST_ROWS]
    columns = max(len(found) for _, found in shown)
    figure = Figure(figsize=(_WIDTH_IN, 0.6 + 2.1 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for row, (name, found) in zip(grid, shown, strict=True):
        for axes, one in zip(row, found, strict=False):
            for values, colour, label in (
                (one.measured, "#000000", "measured"),
                (one.predicted, _COLOURS[0], "predicted"),
            ):
                axes.step(values, np.arange(1, len(values) + 1) / len(values), where="post", color=colour, label=label)
            axes.set_title(f"{name}: {one.title}", fontsize=8.5, loc="left")
            axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
            axes.set_ylim(0, 1)
            axes.tick_params(labelsize=7)
            axes.grid(visible=True, linewidth=0.3, color="#dddddd")
        for axes in row[len(found) :]:
            axes.set_axis_off()
    grid[0][0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _by_server(runs: Sequence[ValidatedRun]) -> dict[str, list[ValidatedRun]]:
    found: dict[str, list[ValidatedRun]] = {}
    for run in runs:
        found.setdefault(server_of(run.run), []).append(run)
    return found


def _under_way(run: ValidatedRun) -> float | None:
    """Return the mean number of requests under way, by Little's law."""
    rate, e2e_s = (run.predicted.get(path) for path in ("throughput_requests_per_s", "e2e_s.mean"))
    return None if rate is None or e2e_s is None or not rate * e2e_s > _LOW else rate * e2e_s


def _mark(index: int) -> str:
    return _MARKS[index // len(_COLOURS) % len(_MARKS)]


def _units(axes: Axes, path: str) -> None:
    unit = "" if path.endswith("_per_s") else "s"
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(EngFormatter(unit=unit))
        low, high = axis.get_view_interval()
        # Within two decades the powers of ten alone would leave an axis without numbers.
        if math.log10(high / low) < 2:
            axis.set_minor_formatter(EngFormatter(unit=unit))
    axes.tick_params(which="both", labelsize=8)
    axes.tick_params(axis="x", which="minor", labelrotation=60)


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11, loc="left")
    return figure, axes


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=7.5)
