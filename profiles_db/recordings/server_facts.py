"""What a result tells of the server behind it, beside the times: its ``server`` object, which `apex observe` writes.

All keys are optional::

    "server": {"engine": "vllm", "version": "0.32.0", "num_gpu_blocks": 7463, "block_size": 16,
               "preemptions": 0, "prefix_hit_frac": 0.0}

Preemptions and prefix hits are those of the run alone. No other key is read, and none is refused: a client may tell
more than a prediction needs.
"""

from collections.abc import Mapping
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.recordings.fields import MOST_COUNT, count_at, number_at

_MOST_BLOCKS: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Facts of a server; None where the result does not tell."""

    engine: str | None = None
    version: str | None = None
    num_gpu_blocks: int | None = None
    block_size: int | None = None  # tokens
    preemptions: int | None = None
    prefix_hit_frac: float | None = None  # of the prompt tokens


def server_facts(document: Mapping[str, Any], place: str) -> ServerFacts:
    """Read the ``server`` object of a result; no facts where it has none. Raises ``UserError`` by place and key."""
    found = document.get("server")
    if found is None:
        return ServerFacts()
    if not isinstance(found, dict):
        raise UserError(f"{place}: server is {shown(found)}, must be a JSON object")
    own = f"{place}: server"
    return ServerFacts(
        engine=_text(found, "engine", own),
        version=_text(found, "version", own),
        num_gpu_blocks=_count(found, "num_gpu_blocks", own, low=1, high=_MOST_BLOCKS),
        block_size=_count(found, "block_size", own, low=1, high=2**20),
        preemptions=_count(found, "preemptions", own),
        prefix_hit_frac=None
        if found.get("prefix_hit_frac") is None
        else number_at(found, "prefix_hit_frac", own, high=1.0),
    )


def _text(found: Mapping[str, Any], key: str, place: str) -> str | None:
    value = found.get(key)
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise UserError(f"{place}: {key} is {shown(value)}, must be a text")
    return value


def _count(found: Mapping[str, Any], key: str, place: str, *, low: int = 0, high: int = MOST_COUNT) -> int | None:
    return None if found.get(key) is None else count_at(found, key, place, low=low, high=high)
