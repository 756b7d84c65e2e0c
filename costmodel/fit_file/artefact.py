"""The fitted model as one Parquet file: a row per knot, everything else in the file's metadata as JSON.

Any tool reads the rows; no pickle, nothing executable. A file of a newer schema, of another kind, cut short or changed
is refused with one sentence that names what was changed. Schema 3 added the digests of rows and metadata, schema 4
intervals by size, schema 5 held-out errors as columns, which prices do without; older files are read with every other
check.
"""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.shown import shown
from costmodel.families.all import OP_FAMILIES
from costmodel.fit_file.checks import fault_in_errors, fault_in_family, fault_in_power
from costmodel.fit_file.contents import Artefact, FamilyReport, Provenance
from costmodel.fit_file.held_out_errors import columns_of_older, error_columns, errors_of_label
from costmodel.fit_file.label_json import derived_from_json, errors_before_columns, label_from_json, label_to_json
from costmodel.fit_file.row_digests import Words, changed_label, error_marks, label_digests, row_marks
from costmodel.fit_file.rows import (
    ENCODINGS,
    FamilyRows,
    RowsFault,
    family_rows,
    knots_table,
    schema_before_errors,
    table_schema,
    wrong_column,
)
from costmodel.fitted.held_out import HeldOut
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.label import parsed_labels
from costmodel.power_model import PowerModel
from profiles_db.parquet_files import metadata_of, read_table, shown_reason, version_in, write_parquet

FIT_SCHEMA_VERSION: Final = 5
_FIRST_WITH_DIGESTS: Final = 3
_FIRST_WITH_ERRORS: Final = 5
_KIND: Final = "apex_fit_schema_version"
_BODY: Final = "apex_fit"
_BODY_DIGEST: Final = "apex_fit_digest"
_AGAIN: Final = "copy the file again, or fit again with `apex fit`; a bundled one comes with apex-planner"
# Fits come with the package: the smallest file, at a second of writing.
_COMPRESSION_LEVEL: Final = 19


def save_artefact(artefact: Artefact, path: Path) -> None:
    """Write the file whole or not at all; raises ``OutputError``."""
    families = {name: _as_kept(knots) for name, knots in artefact.families.items()}
    errors = {name: error_columns(knots) for name, knots in families.items()}
    body = {
        "provenance": asdict(artefact.provenance),
        "power": asdict(artefact.power) if artefact.power is not None else None,
        "reports": [asdict(report) for report in artefact.reports],
        "held_out": [asdict(row) for row in artefact.held_out],
        "families": {
            name: {
                "features": knots.features,
                "labels": {label.text: label_to_json(fit) for label, fit in knots.labels.items()},
                "digests": label_digests(knots, row_marks(knots)),
                "error_digests": label_digests(knots, error_marks(knots, errors[name])),
                "derived": {key: asdict(correction) for key, correction in knots.derived.items()},
            }
            for name, knots in families.items()
        },
    }
    tables = [knots_table(knots, errors[name]) for name, knots in families.items()]
    table = pa.concat_tables(tables) if tables else table_schema().empty_table()
    text = json.dumps(body)
    metadata = {_KIND: str(FIT_SCHEMA_VERSION), _BODY: text, _BODY_DIGEST: _body_digest(text)}
    write_parquet(table, path, compression_level=_COMPRESSION_LEVEL, encodings=ENCODINGS, metadata=metadata)


def load_artefact(path: Path, *, with_errors: bool = True) -> Artefact:
    """Read a fitted model and check every part of it; raises ``UserError`` naming the file and what is wrong with it.

    A row that is not what was written, or that no fit can have, is named by family, label and row. Without held-out
    errors, which prices do not need, fillings have none, and such an artefact is not to be saved.
    """
    try:
        table = read_table(path, columns=None if with_errors else table_schema(with_errors=False).names)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file", hint="write one with `apex fit --out FILE`") from None
    except UserError as error:
        raise UserError(str(error), hint=error.hint or _AGAIN) from None
    metadata = metadata_of(table)
    if _KIND not in metadata:
        raise UserError(f"{path}: is not a fitted cost model", hint="measurements are fitted first, with `apex fit`")
    version = version_in(metadata[_KIND])
    if version is None or version > FIT_SCHEMA_VERSION:
        stated = shown(metadata[_KIND]).strip("'")
        raise UserError(
            f"{path}: fit schema {stated}, this apex reads up to {FIT_SCHEMA_VERSION}", hint="upgrade apex-planner"
        )
    has_digest = version >= _FIRST_WITH_DIGESTS
    text = metadata.get(_BODY, "")
    if has_digest and metadata.get(_BODY_DIGEST) != _body_digest(text):
        raise UserError(f"{path}: its metadata were changed since they were written", hint=_AGAIN)
    body = parse_json(text, f"{path}: damaged fitted model", hint=_AGAIN)
    try:
        artefact = _from_parts(table, body, version, with_errors=with_errors)
    except RowsFault as fault:
        raise UserError(f"{path}: {fault}", hint=_AGAIN) from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: damaged fitted model: {shown_reason(error)}", hint=_AGAIN) from None
    return artefact


def _as_kept(knots: FamilyKnots) -> FamilyKnots:
    """Return the knots with residuals as the file has them; those of a fit are so already."""
    return replace(knots, residual=knots.residual.astype(np.float32).astype(np.float64))


def _body_digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()


def _from_parts(table: pa.Table, body: dict[str, Any], version: int, *, with_errors: bool) -> Artefact:
    has_digest = version >= _FIRST_WITH_DIGESTS
    schema = table_schema(with_errors=with_errors) if version >= _FIRST_WITH_ERRORS else schema_before_errors()
    if wrong := wrong_column(table, schema):
        raise RowsFault(wrong)
    rows, parts = family_rows(table, schema), body["families"]
    if stray := set(rows) ^ set(parts):
        raise RowsFault(f"family {shown(min(stray))} has {'rows' if stray <= set(rows) else 'constants'} only")
    families = {name: _family(name, rows[name], part, has_digest=has_digest) for name, part in parts.items()}
    if with_errors:
        families = {name: _with_errors(knots, rows[name], parts[name]) for name, knots in families.items()}
    provenance: Provenance = _typed(Provenance, body["provenance"])
    power: PowerModel | None = _typed(PowerModel, body["power"]) if body["power"] is not None else None
    if not (np.isfinite(provenance.unlocked_mhz) and provenance.unlocked_mhz > 0.0):
        raise RowsFault(f"unlocked_mhz is {shown(provenance.unlocked_mhz)}, must be > 0")
    if fault := fault_in_power(power) if power is not None else "":
        raise RowsFault(fault)
    return Artefact(
        provenance=provenance,
        families=families,
        power=power,
        reports=tuple(_typed(list[FamilyReport], body["reports"])),
        held_out=tuple(_typed(list[HeldOut], body["held_out"])),
        has_digest=has_digest,
    )


def _family(name: str, rows: FamilyRows, part: dict[str, Any], *, has_digest: bool) -> FamilyKnots:
    """Build a family's knots; raises ``RowsFault`` for what no fit can have and for rows that were changed."""
    if name not in OP_FAMILIES:
        raise RowsFault(f"unknown family {shown(name)}")
    features = tuple(part["features"])
    known = parsed_labels((*rows.label, *part["labels"]))
    knots = FamilyKnots(
        family=name,
        features=features,
        label=tuple(known[text] for text in rows.label),
        shape=rows.shape[:, : len(features)],
        start=rows.start,
        x=rows.x,
        y=rows.y,
        latency_s=rows.latency_s,
        residual=rows.residual,
        derived={key: derived_from_json(correction) for key, correction in part["derived"].items()},
        labels={known[key]: label_from_json(fit) for key, fit in part["labels"].items()},
    )
    _refuse(knots, rows, fault_in_family(knots))
    if has_digest:
        _refuse(knots, rows, _fault_of_digests(knots, row_marks(knots), part["digests"]))
    return knots


def _with_errors(knots: FamilyKnots, rows: FamilyRows, part: dict[str, Any]) -> FamilyKnots:
    """Give completed labels their held-out errors; raises ``RowsFault`` for such as no fit can have or were changed."""
    if rows.log_errors:
        _refuse(knots, rows, fault_in_errors(rows.log_errors))
        _refuse(knots, rows, _fault_of_digests(knots, error_marks(knots, rows.log_errors), part["error_digests"]))
    labels = {}
    for label, fit in knots.labels.items():
        if fit.filling is not None:
            own = knots.measured_rows(label)
            columns = rows.log_errors
            if not columns:
                columns = columns_of_older(errors_before_columns(part["labels"][label.text]), knots, own)
            filling = replace(fit.filling, errors=errors_of_label(knots, label.text, own, columns))
            labels[label] = replace(fit, filling=filling)
    return replace(knots, labels=knots.labels | labels)


def _refuse(knots: FamilyKnots, rows: FamilyRows, fault: tuple[str, int | None] | None) -> None:
    if fault is None:
        return
    text, row = fault
    if row is None:
        raise RowsFault(f"{knots.family}: {text}")
    shape = int(np.searchsorted(knots.start, row, side="right")) - 1
    raise RowsFault(f"{knots.family}, label {knots.label[shape]}, row {rows.first_row + row}: {text}")


def _fault_of_digests(knots: FamilyKnots, marks: Words, digests: dict[str, str]) -> tuple[str, int | None] | None:
    if set(digests) != {label.text for label in knots.labels}:
        return "not every label has a digest of its rows", None
    changed = changed_label(knots, marks, digests)
    if changed is None:
        return None
    label, row = changed
    if row is None:
        return f"label {label}: its rows are not those that were written", None
    return "is not the row that was written", row


def _typed(kind: Any, value: Any) -> Any:
    """Build a dataclass (or a list of them) from JSON, every type checked; raises ``ValueError`` in one line."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{place} is {shown(fault['input'])}: {fault['msg']}") from None
