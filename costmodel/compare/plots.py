"""How a comparison looks: one function per kind of figure, arrays in, a matplotlib figure out.

Every colour is paired with a marker of its own; legends stand beside the data, never on it; every axis names its unit.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from costmodel.compare.held_out_plots import hollow_markers, residual_strip
from costmodel.compare.palette import COLOURS, MARKERS, label_log_axis
from costmodel.compare.series import Series
from costmodel.compare.verdict import SMALL_ERROR
from costmodel.ops.arrays import Array

_WIDTH_IN, _HEIGHT_IN, _STRIP_IN = 9.0, 4.8, 1.5
_CURVE_LEGEND: Final = "filled: measured\nhollow: predicted without it\nline: fitted, shade: 90 % interval"
_RATIO_TICKS: Final = (
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    1.0,
    1.1,
    1.2,
    1.3,
    1.5,
    2.0,
    3.0,
    4.0,
    5.0,
    7.0,
    10.0,
)
_MANY_POINTS: Final = 400  # beyond it a scatter is drawn as pixels, so that an SVG stays small


def curves_figure(title: str, series: Sequence[Series], *, x_label: str) -> Figure:
    """Measured points over fitted curves with their 90 % interval, both axes logarithmic; held-out errors beneath."""
    figure, axes, strip = _figure_with_strip(title)
    for index, one in enumerate(series):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        if one.band is not None:
            axes.fill_between(one.band.x, one.band.low, one.band.high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(one.band.x, one.band.y, color=colour, linewidth=1.2)
        axes.plot(one.x, one.y, marker, color=colour, markersize=3.8, linestyle="none", label=one.label)
        if one.held_out is not None:
            hollow_markers(axes, one.x, one.held_out, colour=colour, marker=marker)
    _log_axes(axes, "", "latency")
    label_log_axis(axes.yaxis, EngFormatter(unit="s", places=0))
    residual_strip(strip, series)
    strip.set_xlabel(x_label)
    label_log_axis(strip.xaxis, FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _legend_beside(axes, _CURVE_LEGEND)
    return figure


def overlay_figure(title: str, pairs: Sequence[tuple[Series, Series]], *, x_label: str) -> Figure:
    """Curves of two fits, the second dashed, over the points of the first; beneath, the second over the first."""
    figure, axes, strip = _figure_with_strip(title)
    for index, (first, second) in enumerate(pairs):
        assert first.band is not None
        assert second.band is not None
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.plot(first.x, first.y, marker, color=colour, markersize=3.8, linestyle="none", label=first.label)
        for band, style in ((first.band, "-"), (second.band, "--")):
            axes.plot(band.x, band.y, style, color=colour, linewidth=1.2)
        strip.plot(first.band.x, second.band.y / first.band.y, color=colour, linewidth=1.2)
    _log_axes(axes, "", "latency")
    label_log_axis(axes.yaxis, EngFormatter(unit="s", places=0))
    strip.axhspan(1.0 - SMALL_ERROR, 1.0 + SMALL_ERROR, color="#e8e8e8", linewidth=0)
    strip.axhline(1.0, color="#7F7F7F", linewidth=0.8)
    strip.set_yscale("log")
    low, high = _ratio_limits(np.concatenate([b.band.y / a.band.y for a, b in pairs if a.band and b.band]))
    strip.set_ylim(low, high)
    _label_ratios(strip, low, high)
    strip.set_ylabel("second / first", fontsize=8)
    strip.set_xlabel(x_label)
    label_log_axis(strip.xaxis, FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _legend_beside(axes, "first fit: points, full line\nsecond fit: dashed")
    return figure


def heat_map_figure(title: str, m: Array, nk: Array, utilisation: Array) -> Figure:
    """Median utilisation of the roofline over (m, n k), one cell per octave; grey where nothing was measured."""
    figure, axes = _figure(title)
    x, y = np.floor(np.log2(m)).astype(int), np.floor(np.log2(nk)).astype(int)
    columns, rows = np.arange(x.min(), x.max() + 1), np.arange(y.min(), y.max() + 1)
    grid = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            inside = (x == column) & (y == row)
            if inside.any():
                grid[i, j] = np.median(utilisation[inside])
    axes.set_facecolor("#d9d9d9")
    image = axes.pcolormesh(2.0 ** np.append(columns, columns[-1] + 1), 2.0 ** np.append(rows, rows[-1] + 1), grid)
    image.set_cmap("cividis")
    image.set_clim(0.0, max(1.0, float(np.nanmax(grid))))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("m [tokens]")
    axes.set_ylabel("n x k [elements]")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("roofline time / measured time, median of the cell")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def bandwidth_figure(
    title: str, algbw: Sequence[Series], busbw: Sequence[Series], *, peak_bytes_per_s: float | None, peak_label: str
) -> Figure:
    """Bandwidth over message size: algbw = S / t left, busbw = algbw x bus factor against the link's peak right.

    Beneath, the errors of held-out predictions, of bandwidth as of time but for the sign.
    """
    figure = Figure(figsize=(_WIDTH_IN + 2.0, _HEIGHT_IN + _STRIP_IN), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    grid = figure.subplots(2, 2, sharex=True, height_ratios=[_HEIGHT_IN, _STRIP_IN])
    for column, (curves, name) in enumerate(((algbw, "algbw"), (busbw, "busbw"))):
        axes, strip = grid[0, column], grid[1, column]
        for index, one in enumerate(curves):
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            if one.band is not None:
                axes.plot(one.band.x, one.band.y, color=colour, linewidth=1.2)
            axes.plot(one.x, one.y, marker, markersize=3.8, linestyle="none", color=colour, label=one.label)
            if one.held_out is not None:
                hollow_markers(axes, one.x, one.held_out, colour=colour, marker=marker)
        _log_axes(axes, "", name)
        label_log_axis(axes.yaxis, EngFormatter(unit="B/s", places=0))
        residual_strip(strip, curves)
        strip.set_xlabel("message size")
        label_log_axis(strip.xaxis, EngFormatter(unit="B", places=0), most=5)
    right = grid[0, 1]
    if peak_bytes_per_s is not None:
        right.axhline(peak_bytes_per_s, color="#000000", linestyle="--", linewidth=1.0, label=peak_label)
    handles, names = right.get_legend_handles_labels()
    style = {"frameon": False, "fontsize": 8, "title_fontsize": 8, "alignment": "left"}
    figure.legend(handles, names, title=_CURVE_LEGEND, loc="outside right center", **style)
    return figure


def histogram_figure(
    title: str, log_ratios: Mapping[str, Array], *, about: str, legend: str, limit: float = 0.5
) -> Figure:
    """Distribution of predicted / measured per group as steps; points beyond the axis are counted in the legend."""
    figure, axes = _figure(title)
    most = max(len(values) for values in log_ratios.values())
    bins = int(np.clip(2 * np.rint(np.sqrt(most)), 8, 80))
    edges = np.linspace(-limit, limit, bins + 1)
    for index, (label, values) in enumerate(log_ratios.items()):
        beyond = int((np.abs(values) > limit).sum())
        share = np.histogram(values, bins=edges)[0] / len(values)
        name = f"{label}\n{len(values):,} points" + (f", {beyond:,} beyond the axis" if beyond else "")
        axes.stairs(share, edges, color=COLOURS[index % len(COLOURS)], linewidth=1.4, label=name)
    axes.axvline(0.0, color="#7F7F7F", linewidth=0.8)
    axes.set_xlim(-limit, limit)
    ticks = np.array([-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.35, 0.5])
    axes.xaxis.set_major_locator(FixedLocator(np.log1p(ticks).tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{np.expm1(value):+.0%}" if value else "0%"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(about)
    axes.set_ylabel(f"share of points per bin of {2 * limit / bins:.1%}")
    axes.set_axisbelow(True)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
    _legend_beside(axes, legend)
    return figure


def ratio_figure(title: str, groups: Mapping[str, tuple[Array, Array]], *, a_label: str, b_label: str) -> Figure:
    """B / A of every shared point over A's latency, with the running median of each group."""
    figure, axes = _figure(title)
    for index, (label, (latency_s, ratio)) in enumerate(groups.items()):
        colour = COLOURS[index % len(COLOURS)]
        crowding = _MANY_POINTS / max(len(ratio), _MANY_POINTS)  # 1 for few points, towards 0 for many
        size, alpha = 3.0 + 11.0 * crowding, 0.1 + 0.6 * crowding
        axes.scatter(latency_s, ratio, s=size, color=colour, alpha=alpha, linewidth=0, rasterized=crowding < 1)
        x, y = _running_median(latency_s, ratio)
        name = f"{label} ({len(ratio):,} points)"
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(x, y, color=colour, marker=marker, markersize=4.5, markeredgecolor="white", linewidth=1.8, label=name)
    axes.axhline(1.0, color="#000000", linewidth=0.8, linestyle="--")
    _log_axes(axes, f"latency of {a_label}", f"{b_label} / {a_label}")
    axes.xaxis.set_major_formatter(EngFormatter(unit="s", places=0))
    low, high = _ratio_limits(np.concatenate([ratio for _, ratio in groups.values()]))
    axes.set_ylim(low, high)
    _label_ratios(axes, low, high)
    _legend_beside(axes, "line: running median")
    return figure


def clocks_figure(title: str, series: Sequence[Series]) -> Figure:
    """Latency over the locked SM clock relative to the highest clock measured: points measured, lines fitted."""
    figure, axes = _figure(title)
    for index, one in enumerate(series):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        if one.band is not None:
            axes.fill_between(one.band.x, one.band.low, one.band.high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(one.band.x, one.band.y, color=colour, linewidth=1.2)
        axes.plot(one.x, one.y, marker, color=colour, markersize=4.5, linestyle="none", label=one.label)
    axes.set_xlabel("locked SM clock [MHz]")
    axes.set_ylabel("latency / latency at the highest clock")
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
    _legend_beside(axes, "measured; line: fitted")
    return figure


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11, loc="left")
    return figure, axes


def _figure_with_strip(title: str) -> tuple[Figure, Axes, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN + _STRIP_IN), layout="constrained")
    axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[_HEIGHT_IN, _STRIP_IN])
    axes.set_title(title, fontsize=11, loc="left")
    return figure, axes, strip


def _log_axes(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.grid(visible=True, which="minor", color="#f0f0f0", linewidth=0.4)
    axes.set_axisbelow(True)


def _legend_beside(axes: Axes, title: str) -> None:
    axes.legend(
        title=title,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
    )


def _running_median(x: Array, y: Array, *, bins: int = 16) -> tuple[Array, Array]:
    edges = np.geomspace(x.min(), x.max() * (1 + 1e-9), bins + 1)
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, bins - 1)
    filled = [i for i in range(bins) if (index == i).any()]
    centres = np.sqrt(edges[:-1] * edges[1:])
    return centres[filled], np.array([np.median(y[index == i]) for i in filled])


def _label_ratios(axes: Axes, low: float, high: float) -> None:
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in _RATIO_TICKS if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _ratio_limits(ratio: Array) -> tuple[float, float]:
    """Limits that hold all but a thousandth of the points on either side, and 1 always."""
    low, high = np.quantile(ratio, (0.001, 0.999))
    return float(min(low, 0.9) / 1.05), float(max(high, 1.1) * 1.05)
