"""The options that say which plans are tried, shared by the commands that enumerate them."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def listed(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str | None, ...]:
    """Split a comma-separated list; ``default`` keeps the checkpoint's or the device's own."""
    if text is None:
        return (None,)
    return tuple(None if item.strip() == "default" else item.strip() for item in text.split(","))


_OPTIONS = (
    click.option("--weights", callback=listed, metavar="DTYPE,...", help="Weight formats to try (bf16,fp8,w8a8 ...)."),
    click.option("--kv", callback=listed, metavar="DTYPE,...", help="KV-cache formats to try (bf16,fp8)."),
    click.option("--fewer-devices", is_flag=True, help="Also try plans that leave devices unused."),
)


def axes_options(command: Command) -> Command:
    """Add the options; check what click collects with `known_formats`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def known_formats(names: tuple[str | None, ...], flag: str) -> tuple[str | None, ...]:
    """Return the formats of ``--weights`` or ``--kv`` if all exist; raises click's error that names the flag."""
    from simulator.plan import KV_DTYPES, WEIGHT_DTYPES

    known = KV_DTYPES if flag == "kv" else WEIGHT_DTYPES
    for name in names:
        if name is not None and name not in known:
            raise click.BadParameter(f"{name!r} is not default or one of {', '.join(known)}", param_hint=f"--{flag}")
    return names
