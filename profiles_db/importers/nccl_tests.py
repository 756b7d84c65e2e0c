"""Imports the output of nccl-tests' ``*_perf`` programs: their text, or the JSON of ``-J``.

``size`` is S, the total payload in bytes; ``time`` is microseconds per operation. Every row is checked against
``algbw = S / time`` so that a shifted column cannot pass as a time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster_specs.errors import UserError
from profiles_db.importers.counting import Sieve, TableCount
from profiles_db.importers.delivery import deliver, record_run
from profiles_db.importers.device_names import NETWORK, device_name, node_level
from profiles_db.importers.nccl_output import NcclOutput, read_nccl_output
from profiles_db.importers.rows import family_rows
from profiles_db.store import Store

US: Final = 1e-6
GB_PER_S: Final = 1e9

ORIGIN: Final = "imported:nccl-tests"

_PROGRAMS: Final = {
    "all_reduce_perf": "all_reduce",
    "all_gather_perf": "all_gather",
    "reduce_scatter_perf": "reduce_scatter",
    "alltoall_perf": "all_to_all",
    "sendrecv_perf": "send_recv",
}
_DTYPES: Final = {
    "float": "fp32",
    "half": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "int8",
    "f8e4m3": "fp8",
    "fp8_e4m3": "fp8",
}
# Where the output does not name the program, its file name may.
_PROGRAM: Final = re.compile(r"[a-z_]+_perf")
# Printed values keep at least three digits.
_ROUNDING: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What the rows are labelled with, and which figures are taken."""

    device: str
    kind: str
    level: str
    placement: str


def import_nccl_tests(
    paths: Sequence[Path],
    store: Store,
    *,
    device: str | None = None,
    kind: str | None = None,
    level: str | None = None,
    placement: str = "out_of_place",
) -> list[TableCount]:
    """Import outputs of nccl-tests, one run of a program per file.

    ``device``, ``kind`` and ``level`` are taken from the output where not given; ``placement`` chooses the out-of-place
    or in-place figures.
    """
    counts = []
    for path in paths:
        output = read_nccl_output(path)
        if kind is not None and kind not in _PROGRAMS.values():
            raise UserError(f"unknown collective {kind!r}", hint=f"one of {', '.join(_PROGRAMS.values())}")
        chosen_kind = kind or _kind_of(path, output)
        chosen_device = device or _device_of(path, output)
        if output.ranks < 2:
            raise UserError(f"{path}: {output.ranks} ranks took part, must be at least 2")
        inside = NETWORK if len(output.hosts) > 1 else node_level(chosen_device)
        choice = _Choice(device=chosen_device, kind=chosen_kind, level=level or inside, placement=placement)
        counts.append(_import_output(path, output, store, choice))
    return counts


def _kind_of(path: Path, output: NcclOutput) -> str:
    found = output.program or next(iter(_PROGRAM.findall(path.stem)), None)
    if found is None:
        raise UserError(f"{path}: does not say which program printed it", hint="name the collective with --kind")
    if found not in _PROGRAMS:
        raise UserError(f"{path}: {found} is not one of {', '.join(_PROGRAMS)}")
    return _PROGRAMS[found]


def _device_of(path: Path, output: NcclOutput) -> str:
    if len(output.devices) != 1:
        raise UserError(f"{path}: names {len(output.devices)} kinds of device", hint="name it with --device")
    return device_name(next(iter(output.devices)))


def _import_output(path: Path, output: NcclOutput, store: Store, choice: _Choice) -> TableCount:
    places = [row[choice.placement] or {} for row in output.results]
    foreign = pa.table(
        {
            "size": pa.array([row["size"] for row in output.results], pa.int64()),
            "type": pa.array([row["type"] for row in output.results], pa.string()),
            **{
                name: pa.array([place.get(name) for place in places], pa.float64())
                for name in ("time", "algbw", "wrong")
            },
        }
    )
    sieve = Sieve(foreign)
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
    nodes = max(len(output.hosts), 1)
    run_id = f"nccl-tests-{choice.device}-{output.ranks}x{nodes}-{path.stem}"
    run = {"run_id": run_id, "device": choice.device, "origin": ORIGIN, "world_size": output.ranks}
    record_run(store, {**run, "nccl_version": output.nccl_version}, datetime.now(UTC))
    rows = family_rows(
        "collective",
        sieve.table.num_rows,
        {
            "kind": choice.kind,
            "ranks": output.ranks,
            "nodes": nodes,
            "level": choice.level,
            "message_bytes": sieve.column("size"),
            "device": choice.device,
            "backend": "nccl",
            "dtype": pa.array([_DTYPES[name] for name in sieve.column("type").to_pylist()], pa.string()),
            "latency_s": pc.multiply(sieve.column("time"), US),
            "samples": output.iterations,
            "launch": "graph" if output.is_graph else "eager",
            "cache": "hot",
            "origin": ORIGIN,
            "run_id": run_id,
            "framework": f"nccl-{output.nccl_version}" if output.nccl_version else None,
            "note": choice.placement.replace("_", " "),
        },
    )
    return deliver(store, rows, sieve, label=str(path), family="collective", run_id=run_id)
