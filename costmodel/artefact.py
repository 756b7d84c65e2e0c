"""The fitted model as one Parquet file: a row per knot, everything else in the file's metadata as JSON.

Any tool reads the rows; no pickle, nothing executable. A file of a newer schema, of another kind or cut short is
refused with one sentence.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from costmodel.holdout import HeldOut
from costmodel.knots import Derived, Errors, FamilyKnots, Filling, LabelFit
from costmodel.power import PowerModel
from costmodel.reference import Reference
from profiles_db.parquet_files import write_parquet

FIT_SCHEMA_VERSION: Final = 2
_KIND: Final = "apex_fit_schema_version"
_BODY: Final = "apex_fit"
_MAX_FEATURES: Final = 6
# Fits come with the package: the smallest file, at a second of writing.
_COMPRESSION_LEVEL: Final = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyReport:
    """What became of one family's rows.

    ``why_not`` is empty when it was fitted, ``no_prior`` unless there was a prior that could not serve.
    """

    family: str
    rows: int
    used: int
    dropped: dict[str, int]
    suspicious: dict[str, int]
    labels: dict[str, int]
    why_not: str = ""
    no_prior: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a fit comes from.

    ``from_prior`` names the labels, by family, that the prior alone has, ``links`` the levels collectives ran on.
    """

    device: str
    cluster: str
    created_at: str
    tool_version: str
    run_ids: tuple[str, ...]
    origins: dict[str, int]
    frameworks: dict[str, int]
    is_monotone: bool
    unlocked_mhz: float
    quantise_included: tuple[str, ...] = ()
    energy_source: str = ""
    prior: str = ""
    from_prior: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """Everything a prediction needs, and everything a reader wants to know about it."""

    provenance: Provenance
    families: dict[str, FamilyKnots]
    power: PowerModel | None
    reports: tuple[FamilyReport, ...] = ()
    held_out: tuple[HeldOut, ...] = field(default_factory=tuple)


def save_artefact(artefact: Artefact, path: Path) -> None:
    """Write the file whole or not at all; raises ``OutputError``."""
    body = {
        "provenance": asdict(artefact.provenance),
        "power": asdict(artefact.power) if artefact.power is not None else None,
        "reports": [asdict(report) for report in artefact.reports],
        "held_out": [asdict(row) for row in artefact.held_out],
        "families": {
            name: {
                "features": knots.features,
                "labels": {key: _label_json(fit) for key, fit in knots.labels.items()},
                "derived": {key: asdict(correction) for key, correction in knots.derived.items()},
            }
            for name, knots in artefact.families.items()
        },
    }
    tables = [_table(knots) for knots in artefact.families.values()]
    table = pa.concat_tables(tables) if tables else _table_schema().empty_table()
    table = table.replace_schema_metadata({_KIND: str(FIT_SCHEMA_VERSION), _BODY: json.dumps(body)})
    write_parquet(table, path, compression_level=_COMPRESSION_LEVEL)


def load_artefact(path: Path) -> Artefact:
    """Read a fitted model; raises ``UserError`` naming the file and what is wrong with it."""
    if not path.is_file():
        raise UserError(f"{path}: no such file", hint="write one with `apex fit --out FILE`")
    try:
        # Not read_table: that imports the dataset module, which takes longer than reading.
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}", hint="fit again with `apex fit`"
        ) from None
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if _KIND not in metadata:
        raise UserError(f"{path}: is not a fitted cost model", hint="measurements are fitted first, with `apex fit`")
    version = metadata[_KIND]
    if not version.isdigit() or int(version) > FIT_SCHEMA_VERSION:
        raise UserError(
            f"{path}: fit schema {version}, this apex reads up to {FIT_SCHEMA_VERSION}", hint="upgrade apex-planner"
        )
    try:
        return _from_parts(table, json.loads(metadata[_BODY]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: damaged fitted model: {error!r}", hint="fit again with `apex fit`") from None


def _label_json(fit: LabelFit) -> dict[str, object]:
    return {
        "reference": asdict(fit.reference),
        "trend_log_s": fit.trend_log_s.tolist(),
        "trend": fit.trend.tolist(),
        "best_utilisation": fit.best_utilisation,
        "trust_along_x": fit.trust_along_x,
        "log_half_width": fit.log_half_width.tolist(),
        "filling": None if fit.filling is None else _filling_json(fit.filling),
    }


def _filling_json(filling: Filling) -> dict[str, object]:
    errors = {
        question: {
            "shape": found.shape.tolist(),
            "regime": found.regime.tolist(),
            "error": np.round(found.error, 5).tolist(),
        }
        for question, found in filling.errors.items()
    }
    # JSON has no infinity.
    return {"trust": filling.trust, "alone": filling.alone if np.isfinite(filling.alone) else None, "errors": errors}


def _filling(label: str, part: dict[str, Any] | None) -> Filling | None:
    if part is None:
        return None
    errors = {
        question: Errors(
            label=np.full(len(found["error"]), label),
            shape=np.array(found["shape"], dtype=np.int64),
            regime=np.array(found["regime"], dtype=np.int8),
            error=np.array(found["error"], dtype=np.float64),
        )
        for question, found in part["errors"].items()
    }
    alone = np.inf if part["alone"] is None else part["alone"]
    return Filling(trust=part["trust"], alone=alone, errors=errors)


def _table_schema() -> pa.Schema:
    features = [pa.field(f"feature_{index}", pa.float64()) for index in range(_MAX_FEATURES)]
    return pa.schema(
        [
            pa.field("family", pa.dictionary(pa.int32(), pa.string())),
            pa.field("label", pa.dictionary(pa.int32(), pa.string())),
            pa.field("shape", pa.int32()),
            *features,
            pa.field("x", pa.float64()),
            pa.field("y", pa.float64()),
            pa.field("latency_s", pa.float64(), metadata={"unit": "s"}),
            pa.field("log_residual", pa.float64(), metadata={"unit": "1"}),
        ]
    )


def _table(knots: FamilyKnots) -> pa.Table:
    counts = np.diff(knots.start)
    shape = np.repeat(np.arange(knots.num_shapes, dtype=np.int32), counts)
    names = sorted(set(knots.label))
    codes = np.searchsorted(np.array(names), knots.label).astype(np.int32)
    features = [
        pa.array(np.repeat(knots.shape[:, index], counts))
        if index < len(knots.features)
        else pa.nulls(len(shape), pa.float64())
        for index in range(_MAX_FEATURES)
    ]
    family = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(shape), dtype=np.int32)), pa.array([knots.family]))
    label = pa.DictionaryArray.from_arrays(pa.array(codes[shape]), pa.array(names))
    latency = pa.array(knots.latency_s, mask=np.isnan(knots.latency_s))
    columns = [family, label, pa.array(shape), *features, pa.array(knots.x), pa.array(knots.y), latency]
    return pa.table([*columns, pa.array(knots.residual)], schema=_table_schema())


def _values(column: pa.Array) -> NDArray[Any]:
    """Share an Arrow array's numbers, nulls as NaN; Arrow's own conversions import pandas where it is installed."""
    kind = np.int32 if pa.types.is_int32(column.type) else np.float64
    if not len(column):
        return np.zeros(0, dtype=kind)
    validity, data = column.buffers()
    own = slice(column.offset, column.offset + len(column))
    values = np.frombuffer(data, dtype=kind)[own]
    if not column.null_count:
        return values
    known = np.unpackbits(np.frombuffer(validity, dtype=np.uint8), bitorder="little")[own]
    return np.where(known, values, np.nan)


def _from_parts(table: pa.Table, body: dict[str, Any]) -> Artefact:
    columns = {name: table[name] for name in _table_schema().names}
    family = columns["family"].combine_chunks()
    family_codes = _values(family.indices)
    family_names = family.dictionary.to_pylist()
    label = columns["label"].combine_chunks()
    label_codes, label_names = _values(label.indices), np.array(label.dictionary.to_pylist())
    arrays = {name: _values(columns[name].combine_chunks()) for name in columns if name not in {"family", "label"}}
    families = {}
    for name, part in body["families"].items():
        own = slice(0, 0)
        if name in family_names:
            found = np.flatnonzero(family_codes == family_names.index(name))
            own = slice(int(found[0]), int(found[-1]) + 1)
        features = tuple(part["features"])
        shape = arrays["shape"][own]
        first = np.flatnonzero(np.append(True, np.diff(shape) != 0))
        families[name] = FamilyKnots(
            family=name,
            features=features,
            label=tuple(label_names[label_codes[own][first]].tolist()),
            shape=np.column_stack([arrays[f"feature_{index}"][own][first] for index in range(len(features))]),
            start=np.append(first, len(shape)).astype(np.int64),
            x=arrays["x"][own],
            y=arrays["y"][own],
            latency_s=arrays["latency_s"][own],
            residual=arrays["log_residual"][own],
            derived={key: Derived(**correction) for key, correction in part["derived"].items()},
            labels={
                key: LabelFit(
                    reference=Reference(**fit["reference"]),
                    trend_log_s=np.array(fit["trend_log_s"]),
                    trend=np.array(fit["trend"]),
                    best_utilisation=fit["best_utilisation"],
                    trust_along_x=fit["trust_along_x"],
                    log_half_width=np.array(fit["log_half_width"]),
                    filling=_filling(key, fit.get("filling")),  # schema 1 had none
                )
                for key, fit in part["labels"].items()
            },
        )
    head = body["provenance"]
    head = {key: tuple(value) if isinstance(value, list) else value for key, value in head.items()}
    return Artefact(
        provenance=Provenance(**head),
        families=families,
        power=PowerModel(**body["power"]) if body["power"] is not None else None,
        reports=tuple(FamilyReport(**report) for report in body["reports"]),
        held_out=tuple(HeldOut(**row) for row in body["held_out"]),
    )
