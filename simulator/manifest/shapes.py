"""Exactly the op shapes that a search will ask for: every plan is compiled with a cost model that records its ops.

Plans share most of their shapes; each is listed once. Decode batches of sequences longer than any may get are left out
and counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from typing import Final

import numpy as np
import pyarrow as pa

from cluster_specs.cluster import ClusterSpec
from cluster_specs.lazy_dataclass import dataclass
from costmodel.cost_model import CostModel, Prediction
from costmodel.families.all import manifest_rows
from costmodel.families.family import Row
from costmodel.ops.arrays import Array
from costmodel.ops.op_types import Attention, Moe, Op
from costmodel.power_model import PowerModel
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.manifest import SHARES, ShapeManifest, manifest_schema, shares_schema
from profiles_db.schema import FAMILIES
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.feasible.context import context_of
from simulator.feasible.server_setup import Overrides
from simulator.manifest.step_shares import step_rows
from simulator.model.bind_workload import bind_workload
from simulator.model.item_rules import Clip
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan
from simulator.serving import CostSource, Refusal, Serving, StartedPlan
from simulator.workload.generators.media import with_media
from simulator.workload.workload import Workload

# Families in the order of the schema; steps are not asked for by plans.
_FAMILIES: Final = tuple(name for name in FAMILIES if name != "step")
_DEFAULT_LONGEST: Final = 8192


class RecordingCosts:
    """Answers as another cost model does and remembers every op it was asked about."""

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs
        self._asked: list[Op] = []

    @property
    def cluster(self) -> ClusterSpec:
        """The cluster the ops run on."""
        return self._costs.cluster

    @property
    def clock_mhz(self) -> float | None:
        """Locked SM clock, None when unlocked."""
        return self._costs.clock_mhz

    @property
    def power(self) -> PowerModel:
        """As the model that answers."""
        return self._costs.power

    @property
    def origin(self) -> str:
        """Say in a few words what the prices rest on."""
        return self._costs.origin

    @property
    def frameworks(self) -> frozenset[str]:
        """As the model that answers."""
        return self._costs.frameworks

    def outside(self) -> str:
        """As the model that answers."""
        return self._costs.outside()

    def includes_quantise(self, dtype: str) -> bool:  # noqa: ARG002 - same question as to a fitted model
        """Products and roundings are to be measured apart: never."""
        return False

    def of_engine(self, engine: str) -> "CostModel":  # noqa: ARG002 - same question as to a fitted model
        """Go on remembering: what is to be measured is an op, whoever runs it."""
        return self

    def predict(self, op: Op) -> Prediction:
        """Remember ``op`` and price it."""
        self._asked.append(op)
        return self._costs.predict(op)

    def take(self) -> list[Op]:
        """Return the ops asked about since the last call, in that order."""
        asked, self._asked = self._asked, []
        return asked


@dataclass(slots=True)
class Shapes:
    """Distinct manifest rows per family, and what stands behind them."""

    rows: dict[str, dict[tuple[object, ...], Row]] = field(default_factory=dict)
    plans: int = 0
    refused: list[Refusal] = field(default_factory=list)
    unreachable: int = 0  # decode batches of sequences longer than any may get
    ungated: int = 0  # calls of experts without a gate, which no kernel here measures
    # Seconds' shares of each row in a prefill and in a decode step, summed over plans.
    shares: dict[str, dict[tuple[object, ...], tuple[Row, Array]]] = field(default_factory=dict)

    def manifest(self) -> ShapeManifest:
        """Return the rows as tables, families in the schema's order."""
        tables = {}
        for family in _FAMILIES:
            if family in self.rows:
                schema = manifest_schema(FAMILIES[family])
                tables[family] = pa.Table.from_pylist(list(self.rows[family].values()), schema=schema)
        return ShapeManifest(tables=tables, shares=self._share_tables())

    def _share_tables(self) -> dict[str, pa.Table]:
        """Return the shares of a mean plan, families in the schema's order."""
        tables = {}
        for family in _FAMILIES:
            if family in self.shares:
                rows = [
                    {**row, **dict(zip(SHARES, (total / self.plans).tolist(), strict=True))}
                    for row, total in self.shares[family].values()
                ]
                tables[family] = pa.Table.from_pylist(rows, schema=shares_schema(FAMILIES[family]))
        return tables

    def counts(self) -> dict[str, dict[str, int]]:
        """Shapes per family and number format."""
        counts: dict[str, dict[str, int]] = {}
        for family in _FAMILIES:
            for row in self.rows.get(family, {}).values():
                of_family = counts.setdefault(family, {})
                of_family[str(row["dtype"])] = of_family.get(str(row["dtype"]), 0) + 1
        return counts


def collect_shapes(
    jobs: Iterable[tuple[ModelSpec, Sequence[Plan]]],
    cluster: ClusterSpec,
    profile: EngineProfile,
    *,
    overrides: Overrides,
    workload: Workload | None = None,
    allow_unsupported: bool = False,
    images: str | None = None,
    audio_s: str | None = None,
) -> Shapes:
    """Compile every plan of every model and collect what each asks of its cost model.

    Without a ``workload``, steps are sized for the longest sequence allowed: ``overrides.max_model_len``, else 8,192
    tokens or the model's context; ``images`` and ``audio_s`` give such a request media, as the options do. Plans that
    cannot start are kept with their reason. Neither clocks nor power caps change shapes.
    """
    shapes = Shapes()
    for text_model, plans in jobs:
        model, sized = bind_workload(
            text_model, workload or _longest_request(text_model, profile, overrides, images, audio_s)
        )
        recorders: dict[str | None, RecordingCosts] = {}
        servings: dict[str | None, Serving] = {}
        for plan in dict.fromkeys(replace(plan, clock_mhz=None, power_cap_w=None) for plan in plans):
            scheme = plan.weight_dtype
            if scheme not in servings:
                recorders[scheme] = RecordingCosts(AnalyticCosts(cluster))
                servings[scheme] = Serving(
                    model=model,
                    cluster=cluster,
                    profile=profile,
                    allow_unsupported=allow_unsupported,
                    costs=_at_any_clock(recorders[scheme]),
                    overrides=overrides,
                )
            serving = servings[scheme]
            start = serving.start(plan, sized)
            if isinstance(start, Refusal):
                shapes.refused.append(start)
                continue
            shapes.plans += 1
            for op in recorders[scheme].take():
                _add(shapes, op, start, cluster)
            _add_shares(shapes, serving, start, AnalyticCosts(cluster))
    return shapes


def _at_any_clock(costs: CostModel) -> CostSource:
    return lambda _clock: costs


def _longest_request(
    model: ModelSpec, profile: EngineProfile, overrides: Overrides, images: str | None, audio_s: str | None
) -> Workload:
    """One request as long as sequences may get; what an encoder-decoder transcribes is as long as it may be."""
    longest = overrides.max_model_len or min(_DEFAULT_LONGEST, context_of(model, profile).limit)
    if audio_s is None and model.is_encoder_decoder and model.encoder is not None:
        rule = model.encoder.rule
        audio_s = f"{rule.span_s:g}" if isinstance(rule, Clip) else None
    request = Workload(
        name="longest request",
        arrival_s=np.zeros(1),
        prompt_tokens=np.array([longest - 1], dtype=np.int64),
        output_tokens=np.ones(1, dtype=np.int64),
    )
    return with_media(request, images, audio_s)


def _add(shapes: Shapes, op: Op, start: StartedPlan, cluster: ClusterSpec) -> None:
    reached, unreachable = _reachable(op, start.limits.max_model_len)
    shapes.unreachable += unreachable
    if isinstance(op, Moe) and not op.is_gated:
        shapes.ungated += 1
        return
    rows = shapes.rows.setdefault(op.family, {})
    for row in manifest_rows(reached, cluster):
        rows.setdefault(tuple(row.values()), row)


def _add_shares(shapes: Shapes, serving: Serving, start: StartedPlan, costs: CostModel) -> None:
    """Add what each row takes of the two steps of one plan, each step 1 in all."""
    for index, is_prefill in enumerate((True, False)):
        found = list(step_rows(serving, start, costs, is_prefill=is_prefill))
        whole = sum(seconds for _, _, seconds in found)
        for family, row, seconds in found:
            _, total = shapes.shares.setdefault(family, {}).setdefault(tuple(row.values()), (row, np.zeros(2)))
            total[index] += seconds / whole


def _reachable(op: Op, longest: int) -> tuple[Op, int]:
    """Leave out decode batches whose mean sequence is longer than ``longest``, but the first of each batch size.

    That one is the upper end of the piece of the curve in which the longest sequences lie.
    """
    is_curve = isinstance(op, Attention) and isinstance(op.num_decode, np.ndarray)
    if not isinstance(op, Attention) or not is_curve or not isinstance(op.decode_kv, np.ndarray):
        return op, 0
    batch, mean, most = (np.asarray(size, dtype=np.int64) for size in (op.num_decode, op.decode_kv, op.decode_kv_max))
    keep = mean <= longest
    for size in np.unique(batch):
        beyond = mean[(batch == size) & (mean > longest)]
        keep |= (batch == size) & (mean == beyond.min(initial=np.iinfo(np.int64).max))
    reached = replace(op, num_decode=batch[keep], decode_kv=mean[keep], decode_kv_max=most[keep])
    return reached, int(np.count_nonzero(~keep))
