"""Reads what nccl-tests' and rccl-tests' ``*_perf`` programs print: any number of runs, one after the other.

A run opens with its version, its name (since 2025) and its parameters, lists its ranks, and ends with its bandwidth.
Lines that mpirun or srun tagged with the process that printed them are sorted by process first. Runs whose lines are
mixed cannot be told apart and are refused: a program built without MPI=1 prints as many runs as it has processes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.importers.nccl_output import MOST_MESSAGE_BYTES, NcclFile, NcclResult, NcclRun, Placement, version_text

# mpirun --tag-output ("[1,0]<stdout>:", "[job@1,0]<stdout>: ", with a time before it), hydra's -prepend-rank ("[0] "),
# srun --label ("0: ").
_TAG: Final = re.compile(
    r"^(?:[^\[\]#]{0,40}\[[\w.@-]+,(\d{1,7})\]<std(?:out|err)>:|\[(\d{1,7})\] |\s{0,7}(\d{1,7}): )\s?"
)
_RANK: Final = re.compile(
    r"^#\s+Rank\s+(\d{1,7})\s+(?:Group\s+(\d{1,7})\s+)?(?:Pid\s+\d+\s+)?on\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s*(.*?)\s*$"
)
_OPENERS: Final = {
    "version": re.compile(r"^#\s*[nr]ccl-tests version\b"),
    "name": re.compile(r"^#\s*Collective test starting:\s*(\S+)"),
    "parameters": re.compile(r"^#\s*nThread\s+\d"),
}
_CLOSER: Final = re.compile(
    r"^#\s*(?:Avg bus bandwidth|Collective test concluded)|Test (?:NCCL|CUDA|HIP|MPI) failure|Test timeout|Test failure"
)
_ITERATIONS: Final = re.compile(r"(?<!warmup )(?<!agg )\biters:\s*(\d{1,9})\b")
_GRAPH: Final = re.compile(r"\bgraph:\s*(\d{1,9})\b")
_LIBRARY: Final = re.compile(r"\b([nr]ccl)-library=(\d{1,9})\b")
_ROW: Final = re.compile(r"^\s*\d+\s+\d+\s")
# What stands behind the bandwidths: a count, or in older builds the largest rounding error.
_COUNTS: Final = frozenset({"#wrong", "nwrong"})
_ERRORS: Final = frozenset({"error", "res"})
_TIMES: Final = frozenset({"time", "cputime"})
_WITHOUT_MPI: Final = (
    "build nccl-tests with MPI=1 so that all processes are one run, or keep the output of each process in its own file"
)


@dataclass(slots=True)
class _Section:
    """The lines of one run so far."""

    first_line: int
    program: str | None = None
    opened: Counter[str] = field(default_factory=Counter)
    ranks: list[tuple[int, int, str, str]] = field(default_factory=list)
    iterations: int | None = None
    is_graph: bool = False
    is_blocking: bool = False
    library: str | None = None
    columns: tuple[str, ...] = ()
    results: list[NcclResult] = field(default_factory=list)
    is_closed: bool = False


def runs_of_text(text: str, path: Path) -> NcclFile:
    """Read the runs of an output; raises ``UserError`` naming the line that does not fit."""
    runs: list[NcclRun] = []
    notes: list[str] = []
    for lines in _by_process(text):
        for section in _sections(lines, path):
            if section.results:
                runs.append(_run(section, path))
            elif section.opened:
                named = section.program or "a program"
                notes.append(f"line {section.first_line}: {named} was started and printed no results")
    return NcclFile(runs=tuple(runs), notes=tuple(notes))


def _by_process(text: str) -> list[list[tuple[int, str]]]:
    """Numbered lines without their tags, apart for each process that tagged its lines."""
    streams: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, line in enumerate(text.splitlines(), start=1):
        tag = _TAG.match(line)
        process = next(group for group in tag.groups() if group is not None) if tag else ""
        streams[process].append((number, line[tag.end() :] if tag else line))
    return list(streams.values())


def _sections(lines: Sequence[tuple[int, str]], path: Path) -> list[_Section]:
    section = _Section(first_line=1)
    sections = [section]
    for number, line in lines:
        opener = next((name for name, pattern in _OPENERS.items() if pattern.match(line)), None)
        if opener is not None:
            if section.results or section.is_closed:
                section = _Section(first_line=number)
                sections.append(section)
            section.opened[opener] += 1
        rank = _RANK.match(line)
        if rank is not None:
            section.ranks.append((int(rank[1]), int(rank[2] or 0), rank[3], rank[4]))
        elif line.startswith("#"):
            _read_comment(line, section)
        elif _ROW.match(line):
            section.results.append(_result(line, section.columns, f"{path}: line {number}"))
        if _CLOSER.search(line):
            section.is_closed = True
    return sections


def _read_comment(line: str, section: _Section) -> None:
    if started := _OPENERS["name"].match(line):
        program = Path(started[1]).name
        if section.program not in {None, program}:
            # Neither has printed a result yet, so their lines are mixed; `_run` refuses them by the names.
            program = f"{section.program} and {program}"
        section.program = program
    if iterations := _ITERATIONS.search(line):
        section.iterations = int(iterations[1])
    if graph := _GRAPH.search(line):
        section.is_graph = int(graph[1]) > 0
    if library := _LIBRARY.search(line):
        section.library = f"{library[1]}-{version_text(int(library[2]))}"
    if line.startswith("# Blocking Enabled"):
        section.is_blocking = True
    words = tuple(line.lstrip("# ").split())
    if {"size", "count", "type"} <= set(words):
        section.columns = words


def _result(line: str, columns: tuple[str, ...], place: str) -> NcclResult:
    """Read a result line by the header above it, which has the time columns once per placement."""
    cells = line.split()
    if "timestamp" in columns:  # a date and a time of day at the end
        columns, cells = columns[:-1], cells[:-2]
    if "redop" in columns and len(cells) == len(columns) - 1:  # older programs without an operator leave it blank
        columns = tuple(name for name in columns if name != "redop")
    starts = [index for index, name in enumerate(columns) if name in _TIMES]
    if len(starts) != 2:
        raise UserError(f"{place}: no header with two time columns above it", hint="give the whole output")
    if len(cells) != len(columns):
        raise UserError(
            f"{place}: {shown(line.strip())} does not fit the header: {len(cells)} columns of {len(columns)}",
            hint="give the unchanged output",
        )
    if len(cells[0]) > len(str(MOST_MESSAGE_BYTES)) or int(cells[0]) > MOST_MESSAGE_BYTES:
        raise UserError(
            f"{place}: size is {shown(cells[0])} bytes, must be at most {MOST_MESSAGE_BYTES}",
            hint="give the unchanged output",
        )
    row = dict(zip(columns[: starts[0]], cells, strict=False))
    placed = []
    for start, end in zip(starts, (starts[1], len(columns)), strict=True):
        placed.append(_placed(columns[start:end], cells[start:end], f"{place}: {shown(line.strip())}"))
    return NcclResult(
        size=int(cells[0]),
        dtype=row["type"],
        redop=row.get("redop", ""),
        out_of_place=placed[0],
        in_place=placed[1],
    )


def _placed(columns: Sequence[str], cells: Sequence[str], place: str) -> Placement:
    """Read the figures of one placement."""
    named = dict(zip(columns, cells, strict=True))
    figures: dict[str, float | None] = {"time": None, "algbw": None, "busbw": None, "wrong": None}
    try:
        for name in ("time", "algbw", "busbw"):  # with -C a cputime stands there, which is no time of the devices
            if name in named:
                figures[name] = float(named[name])
        for name in _COUNTS & named.keys():
            figures["wrong"] = None if named[name] == "N/A" else float(named[name])
        for name in _ERRORS & named.keys():
            # A rounding error is not a count; an asterisk marks one that is too large.
            figures["wrong"] = 1.0 if named[name].endswith("*") else None
    except ValueError as error:
        raise UserError(f"{place} does not fit the header: {error}", hint="give the unchanged output") from error
    return figures


def _run(section: _Section, path: Path) -> NcclRun:
    """Check that the lines of a section are those of one run."""
    place = f"{path}: run at line {section.first_line}"
    if " and " in (section.program or ""):
        raise UserError(f"{place}: two programs, {section.program}, printed into one another", hint=_WITHOUT_MPI)
    times = Counter(rank for rank, *_ in section.ranks)
    repeated = sorted(rank for rank, count in times.items() if count > 1)
    if repeated or section.opened["parameters"] > 1:
        count = max([section.opened["parameters"], *times.values()])
        who = f"rank {repeated[0]} is listed {times[repeated[0]]} times" if repeated else "it has several headers"
        raise UserError(
            f"{place}: {who}, so {count} runs printed into one another, as processes of a build without MPI=1 do",
            hint=_WITHOUT_MPI,
        )
    if times and len(times) <= max(times):
        raise UserError(
            f"{place}: lists {len(times)} of {max(times) + 1} ranks", hint="give the unchanged output with all ranks"
        )
    _check_sweep(section.results, place)
    groups: dict[int, list[str]] = defaultdict(list)
    for _, group, host, _ in section.ranks:
        groups[group].append(host)
    shapes = {(len(hosts), len(set(hosts))) for hosts in groups.values()}
    if len(shapes) > 1:
        raise UserError(
            f"{place}: its {len(groups)} groups of ranks differ in size or hosts, so no time belongs to one of them",
            hint="split into groups of equal shape (NCCL_TESTS_SPLIT), or run without groups",
        )
    ranks, hosts = shapes.pop() if shapes else (0, 0)
    return NcclRun(
        program=section.program,
        ranks=ranks,
        hosts=hosts,
        devices=frozenset(device for *_, device in section.ranks),
        iterations=section.iterations,
        is_graph=section.is_graph,
        is_blocking=section.is_blocking,
        library=section.library,
        results=tuple(section.results),
    )


def _check_sweep(results: Sequence[NcclResult], place: str) -> None:
    """Refuse sizes in an order that no single run prints: they rise, or start again."""
    first: dict[tuple[str, str], int] = {}
    last: dict[tuple[str, str], int] = {}
    for result in results:
        if not result.size:  # what a small size is rounded to among many ranks
            continue
        key = (result.dtype, result.redop)
        start = first.setdefault(key, result.size)
        if result.size < last.get(key, 0) and result.size != start:
            raise UserError(
                f"{place}: size {result.size} follows {last[key]}, so two runs printed into one another",
                hint=_WITHOUT_MPI,
            )
        last[key] = result.size
