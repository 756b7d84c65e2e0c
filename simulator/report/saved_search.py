"""The JSON of a search read back from a file, with everything its page needs: other keys are left as they are."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cluster_specs.errors import UserError
from cluster_specs.files.declared import Declared, Field
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import read_document
from cluster_specs.files.shown import shown
from cluster_specs.files.toml_model import checked
from simulator.results.objective import parse_objective, parse_slo

_SCHEMA: Final = 1
_HINT: Final = "name a file written by apex search --json or -o"
_OLD_HINT: Final = "it was written by another version of apex, or changed; search again with -o"

_Metric = float | None
_Memory = int | str | None


class _Inputs(Declared, frozen=True, extra="ignore"):
    objective: str
    slos: list[str]
    device_memory_bytes: Annotated[int, Field(gt=0)]


class _Versus(Declared, frozen=True, extra="ignore"):
    metric: str
    ratio: float
    ratio_interval: tuple[float, float]
    best_is_better_frac: float


class _Saturation(Declared, frozen=True, extra="ignore"):
    verdict: str


class _Plan(Declared, frozen=True, extra="ignore"):
    plan: str
    devices: Annotated[int, Field(gt=0)]
    group: Literal["ranked", "changing", "breaking"]
    breaks: list[str]
    changes_answers: list[str] = Field(default_factory=list)
    metrics: dict[str, _Metric | dict[str, _Metric]]
    metrics_interval: dict[str, tuple[float, float]] | None = None
    versus_best: _Versus | None = None
    saturation: _Saturation | None = None
    limits: dict[str, Any]
    memory: dict[str, _Memory | dict[str, _Memory]]
    engines: dict[str, str | None]
    launch: Annotated[list[str], Field(min_length=1)]
    notes: list[str]


class _Refusal(Declared, frozen=True, extra="ignore"):
    plan: str
    reason: str


class _Search(Declared, frozen=True, extra="ignore"):
    headline: str
    answer: list[str]
    notes: list[str]
    inputs: _Inputs
    plans: list[_Plan]
    rejected: list[_Refusal]


def read_saved_search(path: Path) -> dict[str, Any]:
    """Read and check a search's JSON; raises ``UserError`` for any other file, naming all that is missing."""
    document = parse_json(read_document(path, hint=_HINT), str(path), hint=_HINT)
    if not isinstance(document, dict) or "plans" not in document:
        raise UserError(f"{path}: not the result of a search: it has no plans", hint=_HINT)
    if document.get("schema") != _SCHEMA:
        raise UserError(f"{path}: schema is {shown(document.get('schema'))}, must be {_SCHEMA}", hint=_OLD_HINT)
    checked(document, _Search, lambda _place: str(path), hint=_OLD_HINT)
    parse_objective(document["inputs"]["objective"])
    parse_slo(document["inputs"]["slos"])
    return document
