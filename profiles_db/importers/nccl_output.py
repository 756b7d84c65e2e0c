"""Parses what nccl-tests' ``*_perf`` programs print: their text, or the JSON of ``-J`` (versions 1 and 2)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError

_RANK_LINE: Final = re.compile(r"^#\s+Rank\s+(\d+)\s.*?\bon\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s*(.*?)\s*$")


@dataclass(slots=True)
class NcclOutput:
    """One run of a program as printed: who took part and one entry per message size."""

    program: str | None = None
    ranks: int = 0
    hosts: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    iterations: int | None = None
    is_graph: bool = False
    nccl_version: str | None = None
    results: list[dict[str, Any]] = field(default_factory=list)


def read_nccl_output(path: Path) -> NcclOutput:
    """Read one run of a program; raises ``UserError`` naming the file (and line) that does not fit."""
    try:
        text = path.read_text(encoding="utf-8", errors="strict")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from error
    output = _from_json(text, path) if text.lstrip().startswith("{") else _from_text(text, path)
    if not output.results:
        raise UserError(f"{path}: no result rows", hint="give the unchanged output of an nccl-tests program")
    return output


def _from_json(text: str, path: Path) -> NcclOutput:
    try:
        document = json.loads(text)
        config = document["config"]
        devices = config["devices"]
        output = NcclOutput(
            program=Path(str(document["args"][0])).name if document.get("args") else None,
            ranks=len(devices),
            hosts={str(entry["hostname"]) for entry in devices},
            devices={str(entry["device_info"]).strip() for entry in devices},
            iterations=int(config["iterations"]),
            is_graph=int(config.get("graph", 0)) > 0,
            nccl_version=_version_text(document.get("nccl_version")),
        )
        # A build without MPI lists one line for all devices of its process.
        output.ranks = max(output.ranks, int(config["nthreads"]) * int(config["ngpus"]))
        for entry in document["results"]:
            places = {place: _json_place(entry.get(place)) for place in ("out_of_place", "in_place")}
            output.results.append({"size": int(entry["size"]), "type": str(entry["type"]), **places})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the JSON of nccl-tests -J: {error!r}") from error
    return output


def _json_place(entry: Mapping[str, Any] | None) -> dict[str, float | None] | None:
    if entry is None:
        return None
    wrong = entry.get("nwrong")
    return {
        "time": float(entry["time"]) if "time" in entry else None,  # cpu_time stands there instead with -C
        "algbw": float(entry["alg_bw"]),
        "wrong": float(wrong) if wrong is not None else None,
    }


def _version_text(code: object) -> str | None:
    """NCCL's version code: 2.19.3 is 21903."""
    if not isinstance(code, int):
        return None
    return f"{code // 10000}.{code // 100 % 100}.{code % 100}"


def _from_text(text: str, path: Path) -> NcclOutput:
    output = NcclOutput()
    columns: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        rank = _RANK_LINE.match(line)
        if rank is not None:
            output.ranks = max(output.ranks, int(rank.group(1)) + 1)
            output.hosts.add(rank.group(2))
            output.devices.add(rank.group(3))
        elif line.startswith("#"):
            _read_comment(line, output)
            if {"size", "count", "type"} <= set(line.split()):
                columns = line.lstrip("# ").split()
        elif line.split()[:1] and line.split()[0].isdigit():
            output.results.append(_text_row(line, columns, f"{path}: line {number}"))
    return output


def _read_comment(line: str, output: NcclOutput) -> None:
    started = re.search(r"Collective test starting:\s*(\S+)", line)
    if started is not None:
        output.program = Path(started.group(1)).name
    iterations = re.search(r"(?<!warmup )\biters:\s*(\d+)", line.replace("agg iters", "agg_iters"))
    if iterations is not None:
        output.iterations = int(iterations.group(1))
    graph = re.search(r"\bgraph:\s*(\d+)", line)
    if graph is not None:
        output.is_graph = int(graph.group(1)) > 0
    library = re.search(r"\bnccl-library=(\d+)", line)
    if library is not None:
        output.nccl_version = _version_text(int(library.group(1)))


def _text_row(line: str, columns: Sequence[str], place: str) -> dict[str, Any]:
    """Read a result line by the header above it, which has the time columns once per placement."""
    starts = [index for index, name in enumerate(columns) if name in {"time", "cputime"}]
    cells = line.split()
    if len(starts) != 2:
        raise UserError(f"{place}: no header with two time columns above it")
    try:
        row: dict[str, Any] = {"size": int(cells[0]), "type": cells[2]}
        for name, start in zip(("out_of_place", "in_place"), starts, strict=True):
            wrong = cells[start + 3]
            row[name] = {
                "time": float(cells[start]) if columns[start] == "time" else None,
                "algbw": float(cells[start + 1]),
                "wrong": None if wrong == "N/A" else float(wrong),
            }
    except (ValueError, IndexError) as error:
        raise UserError(f"{place}: {line.strip()!r} does not fit the header") from error
    return row
