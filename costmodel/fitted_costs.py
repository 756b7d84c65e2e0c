"""Prices from a fitted model, with the analytic model where nothing was measured; both are said by name.

An op's family, number format and shape lead to a prepared curve or surface; from then on a prediction is a table
look-up. What no label covers goes to ``AnalyticCosts`` and is labelled so. Every point outside the measured domain
follows the policy and is counted in ``queries``.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster_specs.cluster import ClusterSpec
from cluster_specs.device import DeviceSpec
from cluster_specs.errors import UserError
from cluster_specs.load import bundled_devices, load_device
from costmodel.cost_model import Prediction, Source
from costmodel.families.all import OP_FAMILIES
from costmodel.fit_file.artefact import Artefact, load_artefact
from costmodel.ops.op_types import Op
from costmodel.pricing.analytic_costs import AnalyticCosts
from costmodel.pricing.domain import OutOfDomain, QueryCount
from costmodel.pricing.measured_links import MeasuredLinks, reference_links
from costmodel.pricing.power_model import PowerModel
from costmodel.pricing.price_points import Pricing


class FittedCosts:
    """Prices ops on one cluster at one clock from a fitted model of its device."""

    def __init__(
        self,
        artefact: Artefact,
        cluster: ClusterSpec,
        clock_mhz: float | None = None,
        *,
        out_of_domain: str = "roofline",
    ) -> None:
        if artefact.provenance.device != cluster.device.name:
            raise UserError(
                f"the fitted model is of device {artefact.provenance.device}, cluster {cluster.name} has "
                f"{cluster.device.name}",
                hint="fit the measurements of this device, or choose a cluster of that one",
            )
        self.artefact = artefact
        self.cluster = cluster
        self.clock_mhz = clock_mhz
        self.queries = QueryCount()
        self._policy = OutOfDomain.parse(out_of_domain)
        self._analytic = AnalyticCosts(cluster, clock_mhz)
        provenance = artefact.provenance
        self.power = artefact.power or PowerModel.from_device(cluster.device)
        self._links = MeasuredLinks.of(cluster, reference_links(provenance.cluster, provenance.links))
        pricing = Pricing(
            cluster=cluster,
            clock_mhz=clock_mhz,
            measured_mhz=artefact.provenance.unlocked_mhz,
            policy=self._policy,
            power=self.power,
            is_monotone=artefact.provenance.is_monotone,
        )
        on_links = replace(pricing, links=self._links)
        families = {name: OP_FAMILIES[name] for name in artefact.families}
        self._prices = {
            name: family.prices(family, artefact.families[name], pricing if family.level is None else on_links)
            for name, family in families.items()
        }
        self._has_links = any(family.level is not None for family in families.values())

    @property
    def origin(self) -> str:
        """Name the device, the kinds of rows and when they were fitted."""
        provenance = self.artefact.provenance
        rows = ", ".join(f"{count} {name}" for name, count in sorted(provenance.origins.items()))
        if provenance.from_prior:
            rows += f"; {', '.join(sorted(provenance.from_prior))} in part or whole of an earlier fit"
        parts = [f"fit of {provenance.device} ({rows}), {provenance.created_at}"]
        if not self.artefact.has_digest:
            parts.append("its file carries no digest of its rows")
        if self._has_links and self.cluster.num_devices > 1 and self._links.text:
            parts.append(self._links.text)
        if unlike := _unlike_bundled(self.cluster.device):
            parts.append(f"{' and '.join(unlike)} of the device file not applied to what was measured")
        return "; ".join(parts)

    def predict(self, op: Op) -> Prediction:
        """Price ``op`` from the first source that has an answer; each point's answer says which it was.

        1. ``MEASURED``: this very point was measured.
        2. ``FITTED``: between points of its own curve, some of them filled in from the shapes of its label together and
           from an earlier fit where that held out better.
        3. ``BORROWED``: nothing of its shape was measured: from the shapes its family names as lenders.
        4. ``EXTRAPOLATED``: outside the measured sizes, by the policy.
        5. ``ANALYTIC``: no label covers it: roofline with the device's constants.

        Raises ``UserError`` under the policy ``raise`` for sizes outside the measured domain.
        """
        family = op.family
        prices = self._prices.get(family)
        found = prices.predict(op) if prices is not None else None
        counts = self.queries
        if found is None:
            found = self._analytic.predict(op)
            counts.analytic[family] = counts.analytic.get(family, 0) + found.source.size
        counts.asked += found.source.size
        outside = int(np.count_nonzero(found.source == Source.EXTRAPOLATED))
        if outside:
            if self._policy is OutOfDomain.RAISE:
                raise UserError(
                    f"{outside} of {found.source.size} sizes of {op} lie outside the measured range",
                    hint="measure them, or choose out_of_domain=roofline",
                )
            counts.extrapolated[family] = counts.extrapolated.get(family, 0) + outside
        return found

    def outside(self) -> str:
        """Say how many prices were extrapolated or analytic."""
        return self.queries.summary()

    def includes_quantise(self, dtype: str) -> bool:
        """Whether the measured GEMM times of ``dtype`` include quantising the activations."""
        return dtype in self.artefact.provenance.quantise_included


def _unlike_bundled(device: DeviceSpec) -> list[str]:
    """Facts that prices rest on in which a user's device differs from the bundled one of its name."""
    if device.name not in bundled_devices():
        return []
    bundled = load_device(device.name)
    return [
        name for name in ("memory_bytes_per_s", "peak_flop_per_s") if getattr(device, name) != getattr(bundled, name)
    ]


def load_costs(
    path: Path | None, cluster: ClusterSpec, clock_mhz: float | None = None, *, out_of_domain: str = "roofline"
) -> "AnalyticCosts | FittedCosts":
    """Open a fitted model, or the analytic one when ``path`` is None; raises ``UserError``."""
    if path is None:
        return AnalyticCosts(cluster, clock_mhz)
    return FittedCosts(load_artefact(path), cluster, clock_mhz, out_of_domain=out_of_domain)
