"""Which server a result says it measured, in the words of the tool that wrote it."""

from cluster_specs.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedServer:
    """Model, hardware, engine and layout as a result states them; None where it does not.

    ``hardware`` is the name of a runner or device as the tool has it, ``precision`` that of the weights. ``plan`` is
    the layout in the text form of plans where the tool states all of it.
    """

    model: str | None = None
    hardware: str | None = None
    engine: str | None = None
    version: str | None = None
    precision: str | None = None
    plan: str | None = None
    devices: int | None = None
