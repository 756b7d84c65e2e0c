"""What a group of measured rows is: one model, device and engine version, and the server its rows are replayed on.

A setting that the server's launch file states is taken from there, for all rows of that file alike; one that nothing
records is the engine profile's default. Launch files are those of github.com/SemiAnalysisAI/InferenceX on the day of
the measurement. Whatever stands in for something else is said in ``caveat`` and printed with the errors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Final, Literal

from benchmarks.fidelity.checkpoints import measured_model
from benchmarks.fidelity.profile_changes import changed
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan, parse_plan

Row = Mapping[str, str]
Settings = Mapping[str, Any]  # values of simulator.feasible.server_setup.Overrides
# public: a public benchmark's client. vendor: fixed lengths, unknown client and limits. drafts: an image that ran with
# speculative decoding only, which the rows do not record. sweep: the public search space says so, a rule of our own.
# suspect: measurements that contradict themselves.
Kind = Literal["public", "vendor", "drafts", "sweep", "suspect"]

_NODE_GPUS: Final = 8
FIXED: Final = ",ratio=1"
VENDOR: Final = "vendor sweep: lengths are fixed; prompts per slot, warm-up and server limits are not recorded"


def every_row(_row: Row) -> bool:
    """Take all rows that have the values of ``ServingGroup.where``."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingGroup:
    """Rows of one server, and how they are replayed."""

    name: str
    where: Mapping[str, tuple[str, ...]]  # column: its values
    only: Callable[[Row], bool] = every_row  # of those, where a column alone does not tell servers apart
    kind: Kind = "public"
    model: str
    device: str
    profile: str
    framework: str  # whose kernel tables are fitted where the engine's own are asked for
    plan: Callable[[Row], str]
    settings: Callable[[Row], Settings]
    changes: Mapping[str, Any] = field(default_factory=dict)  # what its launch file changes of the profile: key, value
    client: str = ""  # appended to closed:isl=,osl=,concurrency=
    caveat: str = ""

    @property
    def engine(self) -> str:
        """The engine, as `serving_points.csv` names it."""
        return self.where["backend"][0]

    @property
    def is_suspect(self) -> bool:
        """Whether it is reported apart because its measurements contradict themselves."""
        return self.kind == "suspect"

    def holds(self, row: Row) -> bool:
        """Whether ``row`` belongs to this group."""
        return all(row[column] in values for column, values in self.where.items()) and self.only(row)

    def engine_profile(self) -> EngineProfile:
        """Return the profile the rows are replayed with."""
        return changed(load_profile(self.profile), self.changes)

    def model_spec(self) -> ModelSpec:
        """Return the model the server ran."""
        return measured_model(self.model)

    def plan_of(self, row: Row) -> Plan:
        """Return the plan the row's server ran."""
        return parse_plan(self.plan(row))


def rows_of(model_path: str, backend: str, system: str, precision: str, *versions: str) -> dict[str, tuple[str, ...]]:
    """Return what tells the rows of one server from all others; no ``versions`` where none is recorded."""
    one = {"model_path": model_path, "backend": backend, "system": system, "precision": precision}
    return {**{column: (value,) for column, value in one.items()}, "backend_version": versions or ("",)}


def number(row: Row, column: str) -> int:
    """Read a count; some are written as 1.0, a blank one is 1."""
    return int(float(row[column] or 1))


def longest(row: Row, spare: int = 200) -> int:
    """Return the context a launch file asks for: prompt, answer and a few tokens to spare."""
    return number(row, "isl") + number(row, "osl") + spare


def is_one_to_one(row: Row) -> bool:
    """Whether prompts and answers have 1,024 tokens each, which launch files treat apart."""
    return row["isl"] == row["osl"] == "1024"


def tensor_parallel(row: Row) -> str:
    """All of a replica's devices hold a slice of every layer."""
    return f"tp{row['tp_size']}"


def mixture(row: Row) -> str:
    """Layout of a mixture of experts: tensor or attention-data parallel, experts sliced or spread.

    A node has eight devices; rows with more count the experts' ranks twice, so that the width is the root.
    """
    gpus, tp, attention_dp = number(row, "gpus"), number(row, "tp_size"), number(row, "attention_dp_size")
    width = isqrt(gpus) if gpus > _NODE_GPUS else max(tp, attention_dp)
    if tp == 1 and attention_dp > 1:
        return f"attn.dp{width}-moe.ep{width}"
    return f"tp{width}-ep{width}" if number(row, "moe_ep_size") > 1 else f"tp{width}"


def fixed_lengths(row: Row) -> Settings:
    """Nothing but the context is stated."""
    return {"max_model_len": longest(row)}
