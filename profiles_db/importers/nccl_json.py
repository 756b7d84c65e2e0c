"""Reads the JSON that nccl-tests write with ``-J`` (versions 1 and 2): one run per file."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.importers.nccl_output import MOST_MESSAGE_BYTES, NcclFile, NcclResult, NcclRun, Placement, version_text

_HINT: Final = "give the unchanged file that nccl-tests -J wrote"
_MOST_COUNT: Final = 10**9


@dataclass(frozen=True, slots=True)
class _Node:
    """A JSON object and where it stands, for messages."""

    values: Mapping[str, Any]
    place: str

    def whole(self, key: str, *, most: int = _MOST_COUNT, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise _unfit(f"{self.place}.{key} is {shown(value)}, must be a whole number from 0 to {most}")
        return value

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _unfit(f"{self.place}.{key} is {shown(value)}, must be a finite number")
        return float(value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise _unfit(f"{self.place}.{key} is {shown(value)}, must be a text")
        return value.strip()

    def node(self, key: str) -> "_Node":
        return _node(self.values.get(key), f"{self.place}.{key}")

    def nodes(self, key: str) -> "list[_Node]":
        value = self.values.get(key)
        if not isinstance(value, list):
            raise _unfit(f"{self.place}.{key} is {shown(value)}, must be a list")
        return [_node(entry, f"{self.place}.{key}[{index}]") for index, entry in enumerate(value)]


def runs_of_json(text: str, path: Path) -> NcclFile:
    """Read the document; raises ``UserError`` with the key and value that do not fit."""
    document = _node(parse_json(text, str(path), hint=_HINT), f"{path}: document")
    config = document.node("config")
    devices = config.nodes("devices")
    # A build without MPI lists one line for all devices of its process.
    ranks = max(len(devices), config.whole("nthreads") * config.whole("ngpus"))
    arguments = document.values.get("args")
    code = document.values.get("nccl_version")
    results = tuple(_result(entry) for entry in document.nodes("results"))
    if not results:
        return NcclFile(runs=())
    run = NcclRun(
        program=Path(str(arguments[0])).name if isinstance(arguments, list) and arguments else None,
        ranks=ranks,
        hosts=len({entry.text("hostname") for entry in devices}),
        devices=frozenset(entry.text("device_info") for entry in devices),
        iterations=config.whole("iterations"),
        is_graph=config.whole("graph", default=0) > 0,
        is_blocking=bool(config.values.get("blocking_collectives")),
        library=None if code is None else f"nccl-{version_text(document.whole('nccl_version'))}",
        results=results,
    )
    return NcclFile(runs=(run,))


def _result(entry: _Node) -> NcclResult:
    return NcclResult(
        size=entry.whole("size", most=MOST_MESSAGE_BYTES),
        dtype=entry.text("type"),
        redop=str(entry.values.get("redop", "")).strip(),
        out_of_place=_placed(entry, "out_of_place"),
        in_place=_placed(entry, "in_place"),
    )


def _placed(entry: _Node, key: str) -> Placement | None:
    if entry.values.get(key) is None:
        return None
    placed = entry.node(key)
    return {
        "time": placed.number("time"),  # cpu_time stands there instead with -C
        "algbw": placed.number("alg_bw"),
        "busbw": placed.number("bus_bw"),
        "wrong": placed.number("nwrong"),
    }


def _node(value: object, place: str) -> _Node:
    if not isinstance(value, dict):
        raise _unfit(f"{place} is {shown(value)}, must be an object")
    return _Node(value, place)


def _unfit(message: str) -> UserError:
    return UserError(f"{message}: not the JSON of nccl-tests -J", hint=_HINT)
