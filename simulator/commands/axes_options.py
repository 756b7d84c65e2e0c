"""The options that say which plans are tried, shared by the commands that enumerate them."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Number = TypeVar("Number", int, float)


def listed(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str | None, ...]:
    """Split a comma-separated list, each item once; ``default``, which keeps what plan or engine have, is None."""
    items = ["default"] if text is None else dict.fromkeys(item.strip() for item in text.split(","))
    return tuple(None if item == "default" else item for item in items)


def listed_clocks(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float | None, ...]:
    """Read a list of clocks in MHz; raises click's error, which names the flag."""
    return _numbers(float, "clock in MHz", listed(context, parameter, text))


def listed_caps(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float | None, ...]:
    """Read a list of power caps in watts; raises click's error, which names the flag."""
    return _numbers(float, "power cap in watts", listed(context, parameter, text))


def listed_counts(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int | None, ...]:
    """Read a list of whole numbers; raises click's error, which names the flag."""
    return _numbers(int, "whole number", listed(context, parameter, text))


def listed_axes(_context: click.Context, _parameter: click.Parameter, text: str | None) -> frozenset[str]:
    """Read a list of axes that no search varies by itself; raises click's error, which names the flag."""
    from simulator.feasible.plan_space import MORE_AXES

    names = [] if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in MORE_AXES:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(MORE_AXES)}")
        if names.count(name) > 1:
            raise click.BadParameter(f"{name!r} is named twice")
    return frozenset(names)


def _numbers(kind: type[Number], name: str, texts: tuple[str | None, ...]) -> tuple[Number | None, ...]:
    numbers: list[Number | None] = []
    for text in texts:
        try:
            number = None if text is None else kind(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no {name}") from error
        if number is not None and not 0 < number < math.inf:
            raise click.BadParameter(f"{text!r} is no {name} above 0")
        numbers.append(number)
    return tuple(numbers)


_OPTIONS = (
    click.option("--weights", callback=listed, metavar="DTYPE,...", help="Weight formats to try (bf16,fp8,w8a8 ...)."),
    click.option("--kv", callback=listed, metavar="DTYPE,...", help="KV-cache formats to try (bf16,fp8)."),
    click.option(
        "--axes",
        callback=listed_axes,
        metavar="NAME,...",
        help="More to vary: cells (degrees of feed-forwards apart from attention), dcp (cached tokens shared out among "
        "ranks), placement (which axis has the nearest links), redundant "
        "(experts held twice), stages (uneven pipelines).",
    ),
    click.option("--fewer-devices", is_flag=True, help="Also try plans that leave devices unused."),
)


def axes_options(command: Command) -> Command:
    """Add the options; check what click collects with `known_formats`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def known_formats(names: tuple[str | None, ...], flag: str) -> tuple[str | None, ...]:
    """Return the formats of ``--weights`` or ``--kv`` if all exist; raises click's error that names the flag."""
    from simulator.plan.plan import KV_DTYPES, WEIGHT_DTYPES

    known = KV_DTYPES if flag == "kv" else WEIGHT_DTYPES
    for name in names:
        if name is not None and name not in known:
            raise click.BadParameter(f"{name!r} is not default or one of {', '.join(known)}", param_hint=f"--{flag}")
    return names
