"""Figures that can show a misfit: residuals of held-out predictions, and predictions against measurements.

A fitted line meets its own points by construction. What is drawn here is said of each point without it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter

from costmodel.compare.held_out_prices import HeldOutPoints
from costmodel.compare.palette import COLOURS, MARKERS, label_log_axis
from costmodel.compare.series import Series
from costmodel.compare.verdict import SMALL_ERROR
from costmodel.fitted.reference import REGIMES
from costmodel.ops.arrays import Array

_LIMITS: Final = (0.2, 0.5, 1.0)  # of the strip's axis; what lies beyond is drawn at its edge
_SHARE_INSIDE: Final = 0.95
_PANEL_IN: Final = 3.1
_MOST_COLUMNS: Final = 3
_MANY_POINTS: Final = 300  # beyond it points are pixels, so that an SVG stays small


def residual_strip(axes: Axes, series: Sequence[Series]) -> None:
    """Draw held-out / measured - 1 of every point as hollow markers, errors of at most 10 % shaded."""
    errors = [None if one.held_out is None else one.held_out / one.y - 1.0 for one in series]
    known = np.concatenate([np.zeros(0), *(error[~np.isnan(error)] for error in errors if error is not None)])
    limit = (
        next((end for end in _LIMITS if np.mean(np.abs(known) <= end) >= _SHARE_INSIDE), _LIMITS[-1])
        if len(known)
        else _LIMITS[0]
    )
    axes.axhspan(-SMALL_ERROR, SMALL_ERROR, color="#e8e8e8", linewidth=0)
    axes.axhline(0.0, color="#7F7F7F", linewidth=0.8)
    for index, (one, error) in enumerate(zip(series, errors, strict=True)):
        if error is None:
            continue
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        inside = np.abs(error) <= limit
        hollow_markers(axes, one.x[inside], error[inside], colour=colour, marker=marker)
        for side, arrow, edge in ((error > limit, "^", limit), (error < -limit, "v", -limit)):
            if side.any():  # matplotlib gives a line of no points a place at the corner of the figure
                x, y = one.x[side], np.full(np.count_nonzero(side), edge)
                axes.plot(x, y, arrow, color=colour, markersize=6, linestyle="none", clip_on=False)
    axes.set_ylim(-limit, limit)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0%}" if value else "0%"))
    beyond = int(np.count_nonzero(np.abs(known) > limit))
    axes.set_ylabel("held out / measured\n- 1" + (f" ({beyond} beyond)" if beyond else ""), fontsize=8)
    axes.grid(visible=True, axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def hollow_markers(axes: Axes, x: Array, y: Array, *, colour: str, marker: str) -> None:
    """Draw points without a face: what is said of them, not what was measured."""
    axes.plot(
        x, y, marker, markersize=6.5, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=0.9, linestyle=""
    )


def parity_figure(title: str, panels: Mapping[str, HeldOutPoints]) -> Figure:
    """Held-out prediction over measurement, both logarithmic, one panel per group, coloured by what binds the call."""
    columns = min(_MOST_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    size = (_PANEL_IN * max(columns, 2) + 1.2, _PANEL_IN * lines + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (name, points) in zip(grid.flat, panels.items(), strict=False):
        _parity(axes, name, points)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], marker="o", linestyle="none", markersize=4, color=COLOURS[index], label=f"{name}-bound")
        for index, name in enumerate(REGIMES)
    ]
    handles.append(Line2D([], [], color="#000000", linewidth=0.8, label="equal"))
    handles.append(Line2D([], [], color="#000000", linewidth=0.7, linestyle="--", label=f"+-{SMALL_ERROR:.0%}"))
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)
    return figure


def _parity(axes: Axes, name: str, points: HeldOutPoints) -> None:
    measured, predicted = points.measured_s, points.predicted_s
    is_crowded = len(measured) > _MANY_POINTS
    for index in range(len(REGIMES)):
        own = points.regime == index
        axes.scatter(
            measured[own],
            predicted[own],
            s=3.0 if is_crowded else 14.0,
            color=COLOURS[index],
            alpha=0.35 if is_crowded else 0.8,
            linewidth=0,
            rasterized=is_crowded,
        )
    ends = np.array([min(measured.min(), predicted.min()) / 1.3, max(measured.max(), predicted.max()) * 1.3])
    for factor, style in ((1.0, "-"), (1.0 + SMALL_ERROR, "--"), (1.0 - SMALL_ERROR, "--")):
        axes.plot(ends, ends * factor, style, color="#000000", linewidth=0.7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        label_log_axis(axis, EngFormatter(unit="s", places=0), most=5)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("measured", fontsize=8)
    axes.set_ylabel("held out", fontsize=8)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    close = float(np.mean(np.abs(predicted / measured - 1.0) <= SMALL_ERROR))
    axes.set_title(f"{name}\n{len(measured):,} points, {close:.0%} within {SMALL_ERROR:.0%}", fontsize=8, loc="left")
