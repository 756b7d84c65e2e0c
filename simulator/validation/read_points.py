"""Tables of measured points as measured runs, by a mapping that says what their columns mean."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.reading import read_document
from cluster_specs.files.shown import listed, shown
from cluster_specs.lazy_dataclass import dataclass
from cluster_specs.load import load_cluster
from simulator.model.load_model import load_model
from simulator.plan.plan import Plan
from simulator.plan.pool_plan import parse_layout
from simulator.validation.deployment import Deployment
from simulator.validation.expression import Expression, Value, cell_value
from simulator.validation.implausible import Limits, MeasuredPoint, implausible, share_of_peak
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.point_mapping import UNITS, PointMapping, Rule, TableServer, Trust, read_mapping
from simulator.workload.parse import parse_workload
from simulator.workload.workload import Workload

TABLE: Final = "table"  # what measured these runs: some client, whose figures a table holds
_MOST_BYTES: Final = 64 * 2**20
_MOST_ROWS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePoint:
    """One row of a table, with the names of the mapping worked out; ``server`` is None where no entry holds it."""

    place: str
    name: str
    cells: Mapping[str, str]
    values: Mapping[str, Value]
    server: TableServer | None
    measured: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTable:
    """A table and its mapping; ``runs`` are read anew from the rows."""

    mapping: PointMapping
    folder: Path  # of the mapping: paths in it count from here
    points: tuple[TablePoint, ...]

    def runs(self) -> list[MeasuredRun | UnusableRun]:
        """Return every row as a run, in order; raises ``UserError`` for a row that contradicts the mapping."""
        reasons = self.not_believed()
        known: dict[str, Workload] = {}
        return [self._run(point, reasons.get(point.place), known) for point in self.points]

    def not_believed(self) -> dict[str, str]:
        """Return, by place, why rows are not believed under the mapping's ``[trust]``."""
        trust = self.mapping.trust
        found: dict[str, str] = {}
        if trust is None:
            return found
        limits = Limits(
            most_of_peak_frac=trust.most_of_peak_frac,
            most_faster_frac=trust.most_faster_frac,
            most_concurrency=trust.most_concurrency,
        )
        for server in self.mapping.server:
            own = [point for point in self.points if point.server is server and _has_latencies(point)]
            points = [_measured_point(point, trust) for point in own]
            model, cluster = load_model(self._path(server.model)), load_cluster(self._path(server.cluster))
            shares = [
                share_of_peak(measured, model, _decode_plan(_text(server.plan, point, "plan")), cluster)
                for point, measured in zip(own, points, strict=True)
            ]
            reasons = implausible(points, shares, limits)
            found |= {point.place: why for point, why in zip(own, reasons, strict=True) if why is not None}
        return found

    def deployment(self, point: TablePoint) -> Deployment:
        """Return what a row's server was; raises ``UserError``."""
        server = point.server
        if server is None:
            raise ValueError(f"{point.place} is of no server")
        rules = {**self.mapping.point.settings, **server.settings}
        settings = {name: _of(rule, point, name) for name, rule in rules.items()}
        return Deployment(
            model=self._path(server.model),
            cluster=self._path(server.cluster),
            engine=self._path(server.engine),
            plan=_text(server.plan, point, "plan"),
            settings={name: value for name, value in settings.items() if value is not None},
        )

    def workload(self, point: TablePoint) -> str:
        """Return what a row's server was sent, as ``--trace`` takes it."""
        own = None if point.server is None else point.server.workload
        return _text(own or self.mapping.point.workload, point, "workload")

    def _run(self, point: TablePoint, why: str | None, known: dict[str, Workload]) -> MeasuredRun | UnusableRun:
        server = point.server
        if server is None:
            return UnusableRun(name=point.name, place=point.place, reason="no [[server]] of the mapping holds this row")
        if not point.measured:
            why = "no measured value in the columns of the mapping"
        if why is not None:
            return UnusableRun(name=point.name, place=point.place, reason=why, group=server.name, set=server.set)
        text = self.workload(point)
        try:
            workload = known.setdefault(text, parse_workload(text)) if text not in known else known[text]
        except UserError as error:
            raise UserError(f"{point.place}: {error}", hint=error.hint) from error
        return MeasuredRun(
            name=point.name,
            place=point.place,
            tool=TABLE,
            deployment=self.deployment(point),
            workload=workload,
            measured=point.measured,
            group=server.name,
            set=server.set,
        )

    def _path(self, text: str) -> str:
        """Return a path of the mapping as one that can be opened; a name stays as it is."""
        is_path = "/" in text and (self.folder / text).exists()
        return str(self.folder / text) if is_path else text


def read_point_table(path: Path, mapping_path: Path) -> PointTable:
    """Read a CSV table (gzipped or not) and its mapping; raises ``UserError``."""
    mapping = read_mapping(mapping_path)
    columns, rows = _rows(path)
    _check_columns(mapping, columns, path, mapping_path)
    points = tuple(_point(cells, f"{path}:{line}", mapping, mapping_path) for line, cells in rows)
    idle = [server.name for server in mapping.server if not any(point.server is server for point in points)]
    if len(idle) == len(mapping.server):
        raise UserError(
            f"{path}: none of its {len(points)} rows is of a [[server]] of {mapping_path}",
            hint="'where' compares cells as they are written in the table",
        )
    return PointTable(mapping=mapping, folder=mapping_path.parent, points=points)


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns, and the rows with their line numbers."""
    try:
        text = read_document(path, most_bytes=_MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: not UTF-8 at byte {error.start}", hint="save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader, [])
        found = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{path}:{reader.line_num}: has {len(cells)} cells, the table has {len(columns)} columns",
                    hint="a cell with a comma in it stands in double quotes",
                )
            found.append((reader.line_num, dict(zip(columns, cells, strict=True))))
            if len(found) > _MOST_ROWS:
                raise UserError(f"{path}: has more than {_MOST_ROWS} rows", hint="validate a part of it")
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: is no CSV: {error}", hint="a comma separates cells") from error
    if not found:
        raise UserError(f"{path}: holds no row", hint="the first line names the columns, every other one is a run")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise UserError(f"{path}: has two columns of one name: {listed(twice)}", hint="rename one of them")
    return columns, found


def _check_columns(mapping: PointMapping, columns: Sequence[str], path: Path, mapping_path: Path) -> None:
    known = set(columns)
    for name, rule in mapping.names.items():
        if name in known:
            raise UserError(f"{mapping_path}: names.{name} is a column or a name already", hint="choose another name")
        _check_names(f"names.{name}", rule.names, known, path, mapping_path)
        known.add(name)
    for place, column in mapping.columns():
        _check_names(place, [column], set(columns), path, mapping_path)
    for place, any_rule in mapping.rules():
        _check_names(place, any_rule.names, known, path, mapping_path)


def _check_names(place: str, needed: Sequence[str] | frozenset[str], known: set[str], path: Path, at: Path) -> None:
    missing = sorted(set(needed) - known)
    if missing:
        raise UserError(
            f"{at}: {place} needs {listed(missing)}, which {path} does not have",
            hint=f"its columns are {listed(sorted(known), 40)}",
        )


def _point(cells: Mapping[str, str], place: str, mapping: PointMapping, mapping_path: Path) -> TablePoint:
    values = {column: cell_value(text) for column, text in cells.items()}
    values |= {column: value for column, value in mapping.blank.items() if not cells[column]}
    unnamed = TablePoint(place=place, name=place, cells=cells, values=values, server=None, measured={})
    for name, rule in mapping.names.items():
        values[name] = _needed(rule, unnamed, f"names.{name}")
    held = [server for server in mapping.server if _holds(server, unnamed)]
    if len(held) > 1:
        raise UserError(
            f"{place}: is held by two servers of {mapping_path}: {listed(server.name for server in held)}",
            hint="'where' and 'only' must tell servers apart",
        )
    return TablePoint(
        place=place,
        name=_text(mapping.point.name, unnamed, "point.name"),
        cells=cells,
        values=values,
        server=held[0] if held else None,
        measured=dict(_measured(cells, place, mapping)),
    )


def _holds(server: TableServer, point: TablePoint) -> bool:
    if any(point.cells[column] not in cells for column, cells in server.where.items()):
        return False
    return server.only is None or bool(_evaluated(server.only, point, f"server {shown(server.name)}: only"))


def _measured(cells: Mapping[str, str], place: str, mapping: PointMapping) -> Iterator[tuple[str, float]]:
    for path, column in mapping.point.measured.items():
        text = cells[column.column].strip()
        if not text:
            continue
        value = cell_value(text)
        if isinstance(value, str) or not value > 0:
            raise UserError(
                f"{place}: {column.column} is {shown(text)}, must be a number > 0",
                hint="leave it blank if not measured",
            )
        yield path, float(value) / UNITS[column.unit]


def _decode_plan(text: str) -> Plan:
    """Read a plan; of two pools that of the decode pool, whose formats are those of both."""
    layout = parse_layout(text)
    return layout if isinstance(layout, Plan) else layout.decode


def _has_latencies(point: TablePoint) -> bool:
    return {"ttft_s.mean", "tpot_s.mean"} <= set(point.measured)


def _measured_point(point: TablePoint, trust: Trust) -> MeasuredPoint:
    return MeasuredPoint(
        prompt_tokens=_count(trust.prompt_tokens, point, "prompt_tokens"),
        output_tokens=_count(trust.output_tokens, point, "output_tokens"),
        concurrency=_count(trust.concurrency, point, "concurrency"),
        devices=_count(trust.devices, point, "devices"),
        ttft_s=point.measured["ttft_s.mean"],
        tpot_s=point.measured["tpot_s.mean"],
        alike=tuple(point.cells[column] for column in trust.alike),
    )


def _count(expression: Expression, point: TablePoint, name: str) -> int:
    value = _evaluated(expression, point, f"trust.{name}")
    if not isinstance(value, int | float) or not value >= 1:
        raise UserError(f"{point.place}: trust.{name} is {shown(value)}, must be a count", hint="correct the mapping")
    return int(value)


def _text(rule: Rule, point: TablePoint, place: str) -> str:
    return str(_needed(rule, point, place))


def _needed(rule: Rule, point: TablePoint, place: str) -> Value:
    value = _of(rule, point, place)
    if value is None:
        raise UserError(f"{point.place}: no case of {place} holds", hint="end the list of cases with one without 'if'")
    return value


def _of(rule: Rule, point: TablePoint, place: str) -> Value | None:
    try:
        return rule.of(point.values)
    except UserError as error:
        raise UserError(f"{point.place}: {place}: {error}", hint=error.hint) from error


def _evaluated(expression: Expression, point: TablePoint, place: str) -> Value:
    try:
        return expression.of(point.values)
    except UserError as error:
        raise UserError(f"{point.place}: {place}: {error}", hint=error.hint) from error
