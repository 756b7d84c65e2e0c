"""How plans compare, as figures: their trade-offs, where a mean request spends its time, what the devices do.

Colours are those of Okabe and Ito (2008), which people with the common colour deficiencies tell apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

from simulator.pools.layouts import Outcome
from simulator.results.objective import mean_parts_s, read_metric

_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_GREY: Final = "#9a9a9a"
_WIDTH_IN: Final = 9.0
_NAMED_OPS: Final = 6  # the rest is "other"
_WORTH_NAMING: Final = 0.93


def trade_off_figure(groups: Mapping[str, Sequence[Outcome]], *, x: str, y: str, labels: tuple[str, str]) -> Figure:
    """Every plan by latency ``x`` (seconds) and ``y``, of both less is better; groups by what the legend says of them.

    The front that no plan of the first group beats is named.
    """
    figure, axes = _figure("Trade-off: every plan", height_in=4.8)
    for (label, outcomes), colour in reversed(
        list(zip(groups.items(), (_COLOURS[0], _COLOURS[1], _GREY), strict=True))
    ):
        points = _points(outcomes, x, y)
        if not points:
            continue
        axes.plot(*_columns(points), "o", color=colour, markersize=4, linestyle="none", label=label)
    front = _front(_points(next(iter(groups.values())), x, y))
    axes.step(
        *_columns(front), where="post", color=_COLOURS[5], linewidth=1.2, label="front: no plan is better in both"
    )
    named_up = float("inf")
    for name, across, up in front:
        if up < _WORTH_NAMING * named_up:  # neighbours of nearly the same value would write over each other
            axes.annotate(name, (across, up), xytext=(5, 5), textcoords="offset points", fontsize=7.5)
            named_up = up
    axes.set(xscale="log", yscale="log", xlabel=labels[0], ylabel=labels[1])
    for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        set_formatter(EngFormatter(unit="s"))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(which="both", labelsize=8)
    axes.grid(visible=True, which="both", linewidth=0.3, color="#dddddd")
    _legend_beside(axes)
    return figure


def request_figure(outcomes: Sequence[Outcome]) -> Figure:
    """Mean seconds of a request in queue, prefill and decode; whiskers are the 90 % interval of their sum."""
    bars = {str(outcome.plan): mean_parts_s(outcome.metrics) for outcome in outcomes}
    figure, axes = _stacked("Where a mean request spends its time", bars, ("queue", "prefill", "decode"))
    for row, outcome in enumerate(outcomes):
        ends, value = (outcome.interval or {}).get("e2e_s.mean"), read_metric(outcome.metrics, "e2e_s.mean")
        if ends is not None and value is not None:
            reach = [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]]
            axes.errorbar(value, row, xerr=reach, color="black", linewidth=1, capsize=3)
    axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.set_xlim(left=0)
    return figure


def device_figure(outcomes: Sequence[Outcome]) -> Figure:
    """Shares of the devices' time per op, of each pool apart; they add up to 1."""
    bars: dict[str, Mapping[str, float]] = {}
    for outcome in outcomes:
        for key, name in (("breakdown_ops", ""), ("prefill_ops", ": prefill"), ("decode_ops", ": decode")):
            if key in outcome.metrics:
                bars[f"{outcome.plan}{name}"] = _named_shares(outcome.metrics[key])
    sums: dict[str, float] = {}
    for shares in bars.values():
        for op, share in shares.items():
            sums[op] = sums.get(op, 0.0) + share
    work = sorted((op for op in sums if op != "idle"), key=lambda op: -sums[op])
    named, others = work[:_NAMED_OPS], work[_NAMED_OPS:]
    shown = {
        name: {op: shares.get(op, 0.0) for op in [*named, "idle"]} | {"other": sum(shares.get(op, 0) for op in others)}
        for name, shares in bars.items()
    }
    figure, axes = _stacked("What the devices do", shown, (*named, "other", "idle"))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0, 1)
    return figure


def _named_shares(breakdown: Mapping[str, Any]) -> dict[str, float]:
    return {key.removesuffix("_frac"): float(value or 0.0) for key, value in breakdown.items()}


def _stacked(title: str, bars: Mapping[str, Mapping[str, float]], parts: Sequence[str]) -> tuple[Figure, Axes]:
    """One horizontal bar per plan, best on top, its parts side by side; idle and other in greys."""
    figure, axes = _figure(title, height_in=1.2 + 0.32 * len(bars))
    left = [0.0] * len(bars)
    greys = {"other": "#c8c8c8", "idle": "#ececec"}
    for index, part in enumerate(parts):
        widths = [values[part] for values in bars.values()]
        axes.barh(
            range(len(bars)), widths, left=left, color=greys.get(part, _COLOURS[index % 7]), label=part, height=0.7
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [name.replace("+", "\n+") for name in bars], fontsize=7.5)
    axes.invert_yaxis()
    _legend_beside(axes)
    return figure, axes


def _points(outcomes: Sequence[Outcome], x: str, y: str) -> list[tuple[str, float, float]]:
    """(plan, x, y) of the plans whose metrics are both known."""
    found = (
        (str(outcome.plan), read_metric(outcome.metrics, x), read_metric(outcome.metrics, y)) for outcome in outcomes
    )
    return [(name, across, up) for name, across, up in found if across is not None and up is not None]


def _front(points: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Points no other one beats in both, by ascending x."""
    front: list[tuple[str, float, float]] = []
    for point in sorted(points, key=lambda point: point[1:]):
        if not front or point[2] < front[-1][2]:
            front.append(point)
    return front


def _columns(points: Sequence[tuple[str, float, float]]) -> tuple[list[float], list[float]]:
    return [across for _, across, _ in points], [up for _, _, up in points]


def _figure(title: str, *, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11, loc="left")
    return figure, axes


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
