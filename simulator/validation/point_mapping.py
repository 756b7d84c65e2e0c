"""Which columns of a table of measured points mean what: a mapping, as a person writes it in TOML.

    schema = 1

    [point]                                     # of every row
    name = "{id}"
    workload = "closed:isl={isl},osl={osl},concurrency={concurrency}"   # as --trace
    measured = { "ttft_s.mean" = { column = "ttft_ms", unit = "ms" } }
    settings = { enable_prefix_caching = false }                        # values of the options of a server

    [blank]                                     # what an empty cell stands for
    attention_dp_size = 1

    [names]                                     # worked out of the columns, one after the other
    longest = "{isl + osl + 200}"

    [[server]]                                  # one for each server whose rows the table holds
    name = "vLLM 0.18, gpt-oss-120b, H100"
    where = { backend = "vllm", backend_version = ["0.18.0", "0.18.1"] }
    only = "tp_size <= 8"                       # an expression, where columns alone do not tell servers apart
    model = "gpt-oss-120b"                      # as --model, --cluster and --engine; paths count from the mapping
    cluster = "h100-sxm-8"
    engine = "vllm-0.18"
    plan = "tp{tp_size}"
    settings = { max_num_seqs = "{concurrency}", max_model_len = "{longest}" }
    caveat = "what stands in for what"
    set = "public"                              # rows are summed up by set

A value is a number, a text with ``{expressions}``, or a list of cases, the first of which holds whose ``if`` is true:
``[{ if = "tp_size > 4", is = "tp4" }, { is = "tp{tp_size}" }]``. A setting without a case that holds is left out.
``workload`` of a server replaces that of ``[point]``; its ``settings`` are laid over those of ``[point]``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cluster_specs.files.shown import listed, shown
from cluster_specs.files.toml_model import read_toml
from cluster_specs.lazy_dataclass import dataclass
from simulator.feasible.server_setup import Overrides
from simulator.results.objective import metric_paths
from simulator.validation.expression import Expression, Template, Value, Values

UNITS: Final[Mapping[str, float]] = {"s": 1.0, "ms": 1e3, "us": 1e6, "per_s": 1.0, "per_min": 60.0, "1": 1.0}
# A table of points says nothing of images.
_SETTINGS: Final = frozenset(field.name for field in fields(Overrides)) - {"mm_encoder_tp_mode"}
_HINT: Final = "docs/guides/validate_a_table.md describes a mapping key by key"


@dataclass(frozen=True, slots=True)
class Rule:
    """A value that depends on the row: the first case that holds."""

    cases: tuple[tuple[Expression | None, Template | Value], ...]

    @property
    def names(self) -> frozenset[str]:
        """The columns and names it needs."""
        needed = [condition.names for condition, _ in self.cases if condition is not None]
        needed += [value.names for _, value in self.cases if isinstance(value, Template)]
        return frozenset().union(*needed)

    def of(self, values: Values) -> Value | None:
        """Return the value for a row, None where no case holds; raises ``UserError``."""
        for condition, value in self.cases:
            if condition is None or condition.of(values):
                return value.of(values) if isinstance(value, Template) else value
        return None


def _as_rule(value: object) -> object:
    if isinstance(value, list):
        return Rule(tuple(_case(item) for item in value))
    return Rule(((None, _plain(value)),))


def _case(item: object) -> tuple[Expression | None, Template | Value]:
    if not isinstance(item, dict) or "is" not in item or not set(item) <= {"if", "is"}:
        raise ValueError(f"is {shown(item)}, a case must be {{ if = EXPRESSION, is = VALUE }} or {{ is = VALUE }}")
    condition = item.get("if")
    if condition is not None and not isinstance(condition, str):
        raise ValueError(f"if is {shown(condition)}, must be an expression in quotes")
    return None if condition is None else Expression.parse(condition), _plain(item["is"])


def _plain(value: object) -> Template | Value:
    if isinstance(value, str):
        return Template.parse(value)
    if isinstance(value, bool | int | float):
        return value
    raise ValueError(
        f"is {shown(value)}, must be a number, true, false, a text with {{expressions}} or a list of cases"
    )


def _as_expression(value: object) -> object:
    return Expression.parse(value) if isinstance(value, str) else value


def _as_several(value: object) -> object:
    return [value] if isinstance(value, str) else value


AnyRule = Annotated[Rule, BeforeValidator(_as_rule)]
AnyExpression = Annotated[Expression, BeforeValidator(_as_expression)]
Cells = Annotated[list[str], BeforeValidator(_as_several)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class MeasuredColumn(_Section):
    """The column of a measured metric, and its unit."""

    column: str
    unit: Literal["s", "ms", "us", "per_s", "per_min", "1"]


class PointRules(_Section):
    """What is alike for all rows."""

    name: AnyRule
    workload: AnyRule
    measured: dict[str, MeasuredColumn] = Field(min_length=1)
    settings: dict[str, AnyRule] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> "PointRules":
        _check_settings(self.settings)
        unknown = [path for path in self.measured if path not in metric_paths()]
        if unknown:
            raise ValueError(f"measured has {listed(unknown)}, no metric of results (such as ttft_s.mean)")
        return self


class TableServer(_Section):
    """One server of a table: which rows are its own, and how it was started."""

    name: str = Field(min_length=1)
    where: dict[str, Cells] = Field(min_length=1)
    only: AnyExpression | None = None
    model: str
    cluster: str
    engine: str
    plan: AnyRule
    workload: AnyRule | None = None
    settings: dict[str, AnyRule] = Field(default_factory=dict)
    caveat: str = ""
    set: str = "all"

    @model_validator(mode="after")
    def _known(self) -> "TableServer":
        _check_settings(self.settings)
        return self

    def rules(self) -> Iterator[tuple[str, Rule | Expression]]:
        """Yield everything of it that depends on the row, with its place."""
        yield "plan", self.plan
        if self.only is not None:
            yield "only", self.only
        if self.workload is not None:
            yield "workload", self.workload
        yield from ((f"settings.{name}", rule) for name, rule in self.settings.items())


class Trust(_Section):
    """Rules by which a measured row is not believed (`simulator.validation.implausible`); columns by their names."""

    prompt_tokens: AnyExpression
    output_tokens: AnyExpression
    concurrency: AnyExpression
    devices: AnyExpression
    most_of_peak_frac: float = Field(gt=0, le=1)
    alike: list[str] = Field(min_length=1)  # rows equal in these differ in their load alone
    most_faster_frac: float = Field(gt=0, lt=1)
    most_concurrency: int = Field(ge=1)


class PointMapping(_Section):
    """A whole mapping."""

    schema_: Literal[1] = Field(alias="schema")
    point: PointRules
    blank: dict[str, int | float | str] = Field(default_factory=dict)
    names: dict[str, AnyRule] = Field(default_factory=dict)
    trust: Trust | None = None
    server: list[TableServer] = Field(min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> "PointMapping":
        names = [server.name for server in self.server]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two servers are called {listed(twice)}")
        return self

    def rules(self) -> Iterator[tuple[str, Rule | Expression]]:
        """Yield every rule over the columns and the names, with its place."""
        yield "point.name", self.point.name
        yield "point.workload", self.point.workload
        yield from ((f"point.settings.{name}", rule) for name, rule in self.point.settings.items())
        for server in self.server:
            yield from ((f"server {shown(server.name)}: {place}", rule) for place, rule in server.rules())
        if self.trust is not None:
            for place in ("prompt_tokens", "output_tokens", "concurrency", "devices"):
                yield f"trust.{place}", getattr(self.trust, place)

    def columns(self) -> Iterator[tuple[str, str]]:
        """Yield every column that is named as such, with its place."""
        yield from (("blank", column) for column in self.blank)
        yield from ((f"point.measured.{path}", column.column) for path, column in self.point.measured.items())
        for server in self.server:
            yield from ((f"server {shown(server.name)}: where", column) for column in server.where)
        if self.trust is not None:
            yield from (("trust.alike", column) for column in self.trust.alike)


def read_mapping(path: Path) -> PointMapping:
    """Read a mapping; raises ``UserError`` with every fault at once."""
    return read_toml(path, PointMapping, hint=_HINT)


def _check_settings(settings: Mapping[str, Any]) -> None:
    unknown = [name for name in settings if name not in _SETTINGS]
    if unknown:
        raise ValueError(f"settings has {listed(unknown)}, must be of {', '.join(sorted(_SETTINGS))}")
