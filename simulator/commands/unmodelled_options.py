"""Options of serving engines that people type for what is not simulated: refused with what is missing, by name.

An unknown option would be refused anyway, as a misspelling; these are none
(`docs/decisions/0132-lora-and-offload-are-refused.md`).
"""

from collections.abc import Mapping
from typing import Final

import click

from cluster_specs.command_line import Command
from cluster_specs.errors import UserError

_LORA: Final = (
    "LoRA adapters are not simulated: no table of prices holds their kernels, and no source the rules by which an "
    "engine admits adapters"
)
_OFFLOAD: Final = (
    "KV cache and weights in host memory are not simulated: no table of prices holds copies to the host beside a "
    "running step, and each connector has rules of its own"
)
_EPD: Final = (
    "encoders on devices of their own are not simulated: a plan has one pool, or one for prefill and one for decode"
)
_OPTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "--lora", "--enable-lora", "--lora-modules", "--lora-paths", "--max-loras", "--max-lora-rank",
            "--max-cpu-loras", "--max-loras-per-batch", "--fully-sharded-loras",
        ),
        _LORA,
    ),
    **dict.fromkeys(
        (
            "--kv-offload", "--kv-offloading-size", "--kv-offloading-backend", "--kv-transfer-config", "--swap-space",
            "--cpu-offload-gb", "--enable-hierarchical-cache", "--hicache-ratio", "--hicache-size", "--enable-lmcache",
        ),
        _OFFLOAD,
    ),
    **dict.fromkeys(("--ec-transfer-config", "--encoder-only", "--language-only", "--encoder-urls"), _EPD),
}  # fmt: skip


class ServingCommand(Command):
    """A command that simulates servers, and says of engines' options that it has not why it has not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; an option it does not know may be one of an engine's."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as unknown:
            because = _OPTIONS.get(unknown.option_name)
            if because is None:
                raise
            raise UserError(f"{unknown.option_name}: {because}", hint=f"leave {unknown.option_name} out") from None
