"""What a measured server was: a model on a cluster, in one layout, under one engine and its settings."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from cluster_specs.cluster import ClusterSpec
from cluster_specs.lazy_dataclass import dataclass
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import choose_costs
from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.feasible.server_setup import Overrides
from simulator.model.extension import load_extensions
from simulator.model.load_model import load_model
from simulator.plan.pool_plan import parse_layout
from simulator.pools.layouts import Layout
from simulator.serving import CostSource, Serving


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A server as a person names it; nothing is read before `serving` or `layout` is asked for.

    ``settings`` are values of `Overrides` by field name, those the server was started with.
    """

    model: str  # bundled name, Hugging Face id or path of a config.json
    cluster: str
    plan: str
    engine: str = DEFAULT_PROFILE
    costs: Path | None = None  # a fitted cost model, or ``analytic``; None: the bundled one
    out_of_domain: str = "roofline"
    allow_unsupported: bool = False
    extensions: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def stated(self) -> dict[str, Any]:
        """Return the settings that somebody stated: those that differ from leaving them to the engine profile."""
        unstated = Overrides()
        return {name: value for name, value in self.settings.items() if value != getattr(unstated, name)}

    def layout(self) -> Layout:
        """Return the plan as a value; raises ``UserError`` naming the part that is wrong."""
        return parse_layout(self.plan)

    def serving(self, profile: EngineProfile | None = None, *, costs: CostSource | None = None) -> Serving:
        """Return the server, under ``profile`` in place of its own; raises ``UserError`` for what cannot be read.

        ``costs`` are handed over where they are open already.
        """
        load_extensions(self.extensions)
        cluster = load_cluster(self.cluster)
        return Serving(
            model=load_model(self.model),
            cluster=cluster,
            profile=profile or load_profile(self.engine),
            allow_unsupported=self.allow_unsupported,
            costs=costs or self.cost_source(cluster),
            overrides=Overrides(**self.settings),
        )

    def cost_source(self, cluster: ClusterSpec) -> CostSource:
        """Return what opens the prices of ``cluster`` at a clock."""
        return lambda clock_mhz: choose_costs(self.costs, cluster, clock_mhz, out_of_domain=self.out_of_domain)
