"""Imports the output of nccl-tests' and rccl-tests' ``*_perf`` programs: their text, or the JSON of ``-J``.

``size`` is S, the total payload in bytes; ``time`` is microseconds per operation. Every row is checked against
``algbw = S / time`` so that a shifted column cannot pass as a time, and every run against ``busbw = algbw x f``, whose
factor f belongs to its kind and number of ranks.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster_specs.errors import UserError
from cluster_specs.files.reading import read_document
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.collective_kinds import COLLECTIVE_KINDS
from profiles_db.importers.counting import Sieve, TableCount
from profiles_db.importers.delivery import deliver, record_run
from profiles_db.importers.device_names import NETWORK, device_name, domain_of, node_level
from profiles_db.importers.nccl_json import runs_of_json
from profiles_db.importers.nccl_output import NcclFile, NcclResult, NcclRun
from profiles_db.importers.nccl_text import runs_of_text
from profiles_db.importers.rows import family_rows
from profiles_db.store import Store

US: Final = 1e-6
GB_PER_S: Final = 1e9

ORIGIN: Final = "imported:nccl-tests"

# Kinds by what the programs are called without their marks: all_reduce_perf, alltoall_perf, all_gather_perf_mpi.
_KINDS: Final = {kind.nccl_tests: name for name, kind in COLLECTIVE_KINDS.items()}
_OTHER_PROGRAMS: Final = ("alltoallv", "broadcast", "gather", "scatter", "hypercube", "reduce")
_KNOWN: Final = re.compile("|".join(sorted([*_KINDS, *_OTHER_PROGRAMS], key=len, reverse=True)))
_PROGRAM: Final = re.compile(r"(\w+?)_perf(?:_\w+)?(?:\.exe)?")
# Which kinds combine what they move: their operator column names one, that of the others says none or nothing.
_COMBINING: Final = frozenset(name for name, kind in COLLECTIVE_KINDS.items() if kind.combines)
_DTYPES: Final = {
    "float": "fp32",
    "half": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "int8",
    "f8e4m3": "fp8",
    "fp8_e4m3": "fp8",
}
# Logs of a whole cluster with NCCL_DEBUG=INFO reach some megabytes.
_MOST_BYTES: Final = 256 * 2**20
_FILE_HINT: Final = "give the unchanged output of an nccl-tests program"
_KIND_HINT: Final = "name the collective with --kind; a file may hold several runs, each with its program's name"
# Printed values keep at least three digits.
_ROUNDING: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What the rows of a run are labelled with, and which figures are taken."""

    device: str
    kind: str
    level: str
    nodes: int
    placement: str
    label: str
    run_id: str
    notes: tuple[str, ...]


def import_nccl_tests(
    paths: Sequence[Path],
    store: Store,
    *,
    device: str | None = None,
    kind: str | None = None,
    level: str | None = None,
    placement: str = "out_of_place",
) -> list[TableCount]:
    """Import outputs of nccl-tests, any number of runs per file; nothing is stored of a file that holds a bad one.

    ``device``, ``kind`` and ``level`` are taken from the output where not given; ``placement`` chooses the out-of-place
    or in-place figures.
    """
    if kind is not None and kind not in _KINDS.values():
        raise UserError(f"unknown collective {shown(kind)}", hint=f"one of {', '.join(_KINDS.values())}")
    planned: list[tuple[NcclRun, _Choice]] = []
    for path in paths:
        found = _read_file(path)
        _check_unnamed(path, found.runs)
        for number, run in enumerate(found.runs, start=1):
            place = f"{path}: run {number} of {len(found.runs)}" if len(found.runs) > 1 else str(path)
            notes = list(found.notes) if number == 1 else []
            chosen_kind = _kind_of(path, run, kind, place)
            chosen_device = device or _device_of(run, place)
            if run.ranks < 2:
                raise UserError(
                    f"{place}: {run.ranks} ranks took part, must be at least 2",
                    hint="several runs of one rank each come from a build without MPI=1; build nccl-tests with it",
                )
            nodes, chosen_level = _extent(run, chosen_device, level, notes)
            notes += [*_operator_notes(run, chosen_kind), *_bandwidth_notes(run, chosen_kind)]
            if run.is_blocking:
                notes.append("run with blocking (-z): its times hold a synchronisation each, which serving does not")
            own = "" if number == 1 else f"-{number}"
            planned.append(
                (
                    run,
                    _Choice(
                        device=chosen_device,
                        kind=chosen_kind,
                        level=chosen_level,
                        nodes=nodes,
                        placement=placement,
                        label=place,
                        run_id=f"nccl-tests-{chosen_device}-{run.ranks}x{nodes}-{path.stem}{own}",
                        notes=tuple(notes),
                    ),
                )
            )
    return [_import_run(run, store, choice) for run, choice in planned]


def _read_file(path: Path) -> NcclFile:
    """Read the runs of a file; raises ``UserError`` naming the file (and line) that does not fit."""
    content = read_document(path, most_bytes=_MOST_BYTES, hint=_FILE_HINT)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot be read as text: {error.reason} at byte {error.start}", hint=_FILE_HINT
        ) from error
    found = runs_of_json(text, path) if text.lstrip().startswith("{") else runs_of_text(text, path)
    if not found.runs:
        raise UserError(f"{path}: no result rows", hint=_FILE_HINT)
    return found


def _check_unnamed(path: Path, runs: Sequence[NcclRun]) -> None:
    """Refuse a file of several programs that do not print their names: its own name can be true of one alone."""
    operators = {result.redop not in {"", "none"} for run in runs if run.program is None for result in run.results}
    if len(operators) > 1:
        raise UserError(
            f"{path}: holds two programs without their names: one combines (operator sum, max ...), one does not",
            hint="give each program's output its own file, named after the program",
        )


def _kind_of(path: Path, run: NcclRun, wished: str | None, place: str) -> str:
    """Take the kind from the output, the caller or the file's name, in this order; they must not disagree."""
    if run.program is not None:
        named = _PROGRAM.fullmatch(run.program)
        own = _kind_named(named[1] if named else run.program, place, run.program, whole=True)
        if own is None:
            raise UserError(f"{place}: {run.program[:60]} is not one of {_programs()}", hint=_KIND_HINT)
        if wished not in {None, own}:
            raise UserError(f"{place}: printed by {run.program}, but --kind is {wished}", hint="leave --kind out")
        return own
    if wished is not None:
        return wished
    found = _kind_named(path.name, place, path.name, whole=False)
    if found is None:
        raise UserError(f"{place}: does not say which program printed it", hint="name the collective with --kind")
    return found


def _kind_named(name: str, place: str, shown_name: str, *, whole: bool) -> str | None:
    """Return the kind that a program's (``whole``) or a file's name holds; None where it holds none."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    words = {plain} & {*_KINDS, *_OTHER_PROGRAMS} if whole else set(_KNOWN.findall(plain))
    if len(words) > 1:
        raise UserError(f"{place}: its name says {' and '.join(sorted(words))}", hint=_KIND_HINT)
    if not words:
        return None
    word = words.pop()
    if word not in _KINDS:
        raise UserError(f"{place}: {shown_name[:60]} is not one of {_programs()}", hint="no plan asks for it")
    return _KINDS[word]


def _programs() -> str:
    return "all_reduce_perf, all_gather_perf, reduce_scatter_perf, alltoall_perf, sendrecv_perf"


def _device_of(run: NcclRun, place: str) -> str:
    if len(run.devices) != 1:
        kinds = ", ".join(sorted(run.devices)) or "none"
        raise UserError(
            f"{place}: names {len(run.devices)} kinds of device: {shown(kinds)}", hint="name it with --device"
        )
    try:
        return device_name(next(iter(run.devices)))
    except UserError as error:
        raise UserError(f"{place}: {error}", hint=error.hint) from error


def _extent(run: NcclRun, device: str, level: str | None, notes: list[str]) -> tuple[int, str]:
    """Return over how many nodes a run went and at which link level; hosts in one NVLink domain are one node."""
    if run.hosts <= 1:
        return 1, level or node_level(device)
    domain = domain_of(device)
    if domain == 1 or level == NETWORK:
        return run.hosts, level or NETWORK
    nodes = -(-run.ranks // domain)
    own = level or (node_level(device) if nodes == 1 else NETWORK)
    notes.append(
        f"{run.ranks} ranks on {run.hosts} hosts are filed as {nodes} NVLink domain{'s' if nodes > 1 else ''} of up to "
        f"{domain}; were they in several racks, name --level {NETWORK}"
    )
    return nodes, own


def _operator_notes(run: NcclRun, kind: str) -> list[str]:
    """Compare the operator column, where there is one, with the kind."""
    operators = {result.redop for result in run.results} - {""}
    if not operators or {name != "none" for name in operators} == {kind in _COMBINING}:
        return []
    return [f"its operator is {shown(', '.join(sorted(operators)))}, which is not that of {kind}: is the kind right?"]


def _bandwidth_notes(run: NcclRun, kind: str) -> list[str]:
    """Compare the printed bus bandwidths with what this kind over so many ranks has."""
    expected = COLLECTIVE_KINDS[kind].bus_factor(run.ranks)
    factors = [
        place["busbw"] / place["algbw"]
        for result in run.results
        for place in (result.out_of_place, result.in_place)
        if place and place["algbw"] and place["busbw"] and place["algbw"] >= 1.0  # printed to 0.01 GB/s
    ]
    if not factors or abs(float(np.median(factors)) / expected - 1.0) <= _ROUNDING:
        return []
    return [
        f"its bus bandwidth is {np.median(factors):.3g} times the algorithm's, {kind} over {run.ranks} ranks has "
        f"{expected:.3g}: are kind and ranks right?"
    ]


def _figure(result: NcclResult, placement: str, name: str) -> float | None:
    place = result.in_place if placement == "in_place" else result.out_of_place
    return None if place is None else place[name]


def _import_run(run: NcclRun, store: Store, choice: _Choice) -> TableCount:
    foreign = pa.table(
        {
            "size": pa.array([result.size for result in run.results], pa.int64()),
            "type": pa.array([result.dtype for result in run.results], pa.string()),
            **{
                name: pa.array([_figure(result, choice.placement, name) for result in run.results], pa.float64())
                for name in ("time", "algbw", "wrong")
            },
        }
    )
    sieve = Sieve(foreign, notes=list(choice.notes))
    sieve.drop_unfit_latency("time")
    sieve.drop(pc.less_equal(sieve.column("size"), 0), "message of 0 bytes")
    sieve.drop(pc.greater(sieve.column("wrong"), 0), "wrong result")
    sieve.drop_unknown_formats("type", _DTYPES)
    seconds = sieve.column("time").to_numpy() * US
    stated = sieve.column("algbw").to_numpy() * GB_PER_S
    implied = sieve.column("size").to_numpy() / seconds
    # Bandwidths are printed to 0.01 GB/s.
    disagree = np.abs(stated - implied) > _ROUNDING * implied + 0.01 * GB_PER_S
    sieve.drop(disagree, "time and bandwidth disagree")
    recorded = {"run_id": choice.run_id, "device": choice.device, "origin": ORIGIN, "world_size": run.ranks}
    version = run.library.partition("-")[2] if run.library else None
    record_run(store, {**recorded, "nccl_version": version}, datetime.now(UTC))
    rows = family_rows(
        "collective",
        sieve.table.num_rows,
        {
            "kind": choice.kind,
            "ranks": run.ranks,
            "nodes": choice.nodes,
            "level": choice.level,
            "message_bytes": sieve.column("size"),
            "device": choice.device,
            "backend": "rccl" if (run.library or "").startswith("rccl") else "nccl",
            "dtype": pa.array([_DTYPES[name] for name in sieve.column("type").to_pylist()], pa.string()),
            "latency_s": pc.multiply(sieve.column("time"), US),
            "samples": run.iterations,
            "launch": "graph" if run.is_graph else "eager",
            "cache": "hot",
            "origin": ORIGIN,
            "run_id": choice.run_id,
            "framework": run.library,
            "note": choice.placement.replace("_", " "),
        },
    )
    return deliver(store, rows, sieve, label=choice.label, family="collective", run_id=choice.run_id)
