"""Why a plan cannot run, and who says so: the model's shapes, the device, the engine, the user's settings, or apex."""

from typing import Final, Literal, NamedTuple

Refuser = Literal["model", "device", "engine", "settings", "apex"]

REFUSERS: Final[dict[Refuser, str]] = {
    "model": "the shapes of the model cannot be laid out so",
    "device": "memory, number formats, clocks or links of the devices do not allow it",
    "engine": "the engine does not run it",
    "settings": "what the user states, or the requests of the trace, does not allow it",
    "apex": "it is not simulated",
}


class Refused(NamedTuple):
    """A reason, and whose it is."""

    reason: str
    by: Refuser
