"""From what was asked (a manifest, or the general grid) to points: each op on the kernels that exist for it here.

What cannot be measured in this run (a collective over more ranks than there are, an op without a kernel) is counted and
said, never dropped in silence.
"""

import random
from collections.abc import Iterable, Sequence

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.all import OP_FAMILIES
from profiler.bench import Bench
from profiler.collectives.groups import GroupLayout
from profiler.planning.grid import DEFAULT_DTYPES, FAMILIES, DeviceKind, general_grid
from profiler.point import OpShape, Point
from profiler.request import ProfileRequest
from profiles_db.manifest import SHARES, ShapeManifest, load_manifest

# Backend label of a row that says no kernel here runs the op.
NO_KERNEL = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsToMeasure:
    """Points of one run at an unlocked clock, and sentences on what cannot be among them."""

    compute: tuple[Point, ...]
    collectives: tuple[OpShape, ...]
    notes: tuple[str, ...]


def wanted_shapes(request: ProfileRequest, kind: DeviceKind, layouts: Sequence[GroupLayout]) -> list[OpShape]:
    """Return the op shapes asked for; raises ``UserError`` or ``UserError`` for a bad manifest or family."""
    if request.manifest is None:
        return general_grid(
            kind,
            families=request.families or FAMILIES,
            dtypes=request.dtypes or DEFAULT_DTYPES[kind],
            layouts=layouts,
        )
    manifest = load_manifest(request.manifest)
    asked = [OpShape.of(family, **row) for family, table in manifest.tables.items() for row in table.to_pylist()]
    shapes = list(dict.fromkeys([*asked, *_shares_in(manifest)]))
    shapes = [op for op in shapes if request.families is None or op.family in request.families]
    if request.dtypes is not None:
        shapes = [op for op in shapes if op.is_collective or op.dtype in request.dtypes]
    if not shapes:
        raise UserError(
            f"{request.manifest}: no shape left to measure",
            hint="check --families and --dtypes against the manifest, or write it again with `apex shapes`",
        )
    return shapes


def step_shares(request: ProfileRequest) -> dict[OpShape, float]:
    """Return the share of a step that each op takes, the mean of a prefill and a decode step; empty where none says."""
    return {} if request.manifest is None else _shares_in(load_manifest(request.manifest))


def _shares_in(manifest: ShapeManifest) -> dict[OpShape, float]:
    found: dict[OpShape, float] = {}
    for family, table in manifest.shares.items():
        for row in table.to_pylist():
            share = sum(row.pop(name) for name in SHARES) / len(SHARES)
            found[OpShape.of(family, **row)] = share
    return found


def place_workload(
    shapes: Iterable[OpShape],
    bench: Bench,
    request: ProfileRequest,
    device_name: str,
    layouts: Sequence[GroupLayout],
) -> PointsToMeasure:
    """Put every shape on its kernels; a manifest's op without one becomes a point that ends as ``unsupported``."""
    known = {layout.key for layout in layouts}
    compute: list[Point] = []
    collectives: list[OpShape] = []
    foreign: set[tuple[int, int, str]] = set()
    foreign_count = without_kernel = 0
    for op in shapes:
        if op.is_collective:
            key = (op.shape["ranks"], op.shape["nodes"], op.shape["level"])
            if key in known:
                collectives.append(op)
            else:
                foreign.add(key)
                foreign_count += 1
            continue
        for cache in request.caches or (serving_cache(op.family),):
            points = bench.place(op, device_name=device_name, cache=cache)
            if not points and request.manifest is not None:
                points = [Point(op=op, device=device_name, backend=NO_KERNEL, launch=bench.launch, cache=cache)]
            without_kernel += not points
            compute += points
    notes = []
    if not layouts and request.manifest is None and "collective" in (request.families or FAMILIES):
        notes.append("left out: collectives, which need two ranks at least (--nproc-per-node 2)")
    if foreign_count:
        groups = ", ".join(f"{ranks} ranks on {nodes} nodes over {level}" for ranks, nodes, level in sorted(foreign))
        notes.append(f"left out: {foreign_count} collectives over groups this run does not have ({groups})")
    if without_kernel:
        notes.append(f"left out: {without_kernel} ops of the general grid that have no kernel here")
    return PointsToMeasure(compute=tuple(compute), collectives=tuple(collectives), notes=tuple(notes))


def serving_cache(family: str) -> str:
    """Return the state of a family's operands in a serving step; whole steps read weights no cache holds."""
    return OP_FAMILIES[family].cache if family in OP_FAMILIES else "cold"


def place_collectives(
    shapes: Sequence[OpShape],
    kernels: dict[str, tuple[str, ...]],
    launches: Sequence[str],
    device_name: str,
    *,
    seed: int,
) -> list[Point]:
    """Return every collective on every path (kind -> ``backend`` labels) and launch mode, in a seeded order."""
    points = [
        Point(op=op, device=device_name, backend=backend, launch=launch, cache="hot")
        for op in shapes
        for backend in kernels[op.shape["kind"]]
        for launch in launches
    ]
    random.Random(seed).shuffle(points)  # noqa: S311 - an order of measurement, not a secret
    return points
