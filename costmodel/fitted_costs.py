"""Prices from a fitted model, with the analytic model where nothing was measured; both are said by name.

An op's family, number format and shape lead to a prepared curve or surface; from then on a prediction is a table
look-up. What no label covers goes to ``AnalyticCosts`` and is labelled so. Every point outside the measured domain
follows the policy and is counted in ``queries``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from cluster_specs.cluster import ClusterSpec
from cluster_specs.device import DeviceSpec
from cluster_specs.errors import UserError
from cluster_specs.load import bundled_devices, load_device
from costmodel.cost_model import CostModel, Prediction, Source
from costmodel.families.all import OP_FAMILIES
from costmodel.families.family import Prices
from costmodel.fit_file.contents import Artefact, FamilyReport
from costmodel.fit_file.prepared import load_for_prices
from costmodel.ops.op_types import Op
from costmodel.power_model import PowerModel
from costmodel.pricing.analytic_costs import AnalyticCosts
from costmodel.pricing.domain import OutOfDomain, QueryCount
from costmodel.pricing.measured_links import MeasuredLinks, reference_links
from costmodel.pricing.price_points import Pricing

# Families whose engine picks the faster of several kernels, wherever that one was measured.
_FASTER_OF_BOTH: Final = frozenset({"moe"})
_EXTRAPOLATED: Final = int(Source.EXTRAPOLATED)  # a plain number: comparing arrays with a member of an enum is slow
_FIELDS: Final = ("latency_s", "low_s", "high_s", "energy_j", "source")


class FittedCosts:
    """Prices ops on one cluster at one clock from a fitted model of its device."""

    def __init__(
        self,
        artefact: Artefact,
        cluster: ClusterSpec,
        clock_mhz: float | None = None,
        *,
        out_of_domain: str = "roofline",
        engine_fits: Mapping[str, Path] | None = None,
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
        self.engine_fits = {} if engine_fits is None else engine_fits  # of the same device, by engine
        self._policy = OutOfDomain.parse(out_of_domain)
        self._analytic = AnalyticCosts(cluster, clock_mhz)
        self._unlike = _unlike_bundled(cluster.device)
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
        families = [OP_FAMILIES[name] for name in artefact.families]
        self._pricing = {family.name: pricing if family.level is None else on_links for family in families}
        self._prices: dict[str, Prices] = {}  # of the families asked for so far
        self._has_links = any(family.level is not None for family in families)

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
        if stand_ins := [f"{found.family} {text}" for found in self.artefact.reports for text in _stand_ins(found)]:
            parts.append(f"stand-ins for kernels of {provenance.engine or 'the engine'}: {', '.join(stand_ins)}")
        if self._unlike:
            parts.append(f"{' and '.join(self._unlike)} of the device file not applied to what was measured")
        return "; ".join(parts)

    @property
    def frameworks(self) -> frozenset[str]:
        """Frameworks whose kernels were measured."""
        return frozenset(name.split("-")[0] for name in self.artefact.provenance.frameworks)

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
        found = self._prices_of(family).predict(op) if family in self._pricing else None
        counts = self.queries
        if found is None:
            found = self._analytic.predict(op)
            counts.analytic[family] = counts.analytic.get(family, 0) + found.source.size
        counts.asked += found.source.size
        outside = int(np.count_nonzero(found.source == _EXTRAPOLATED))
        if outside:
            if self._policy is OutOfDomain.RAISE:
                raise UserError(
                    f"{outside} of {found.source.size} sizes of {op} lie outside the measured range",
                    hint="measure them, or choose out_of_domain=roofline",
                )
            counts.extrapolated[family] = counts.extrapolated.get(family, 0) + outside
        return found

    def _prices_of(self, name: str) -> Prices:
        if name not in self._prices:
            family = OP_FAMILIES[name]
            prices = family.prices(family, self.artefact.families[name], self._pricing[name])
            self._prices.setdefault(name, prices)  # another thread's, if it was first
        return self._prices[name]

    def outside(self) -> str:
        """Say how many prices were extrapolated or analytic."""
        return self.queries.summary()

    def includes_quantise(self, dtype: str) -> bool:
        """Whether the measured GEMM times of ``dtype`` include quantising the activations."""
        return dtype in self.artefact.provenance.quantise_included

    def of_engine(self, engine: str) -> CostModel:
        """Return these prices with the kernels of ``engine`` where it has a fit of its own, else these."""
        path = self.engine_fits.get(engine)
        if path is None:
            return self
        own = FittedCosts(load_for_prices(path), self.cluster, self.clock_mhz, out_of_domain=self._policy.value)
        return EngineCosts(self, own, engine)


class EngineCosts:
    """Prices of a device's fit with the kernels of one engine in their place, where that engine's were measured apart.

    Most kernels are the same under every engine, and a device has one bundled fit. Attention is not: TensorRT-LLM
    brings its own, and its measured calls answer first. Of experts the faster of both counts: an engine tunes itself to
    the best of several kernels, some of which were measured under another engine's name (FlashInfer's are those of
    TensorRT-LLM).
    """

    def __init__(self, device: FittedCosts, own: FittedCosts, engine: str) -> None:
        self._device = device
        self._own = own
        self._engine = engine

    @property
    def cluster(self) -> ClusterSpec:
        """The cluster the ops run on."""
        return self._device.cluster

    @property
    def clock_mhz(self) -> float | None:
        """Locked SM clock, None when unlocked."""
        return self._device.clock_mhz

    @property
    def power(self) -> PowerModel:
        """The device's."""
        return self._device.power

    @property
    def origin(self) -> str:
        """Name both fits, and what the engine's own is used for."""
        families = " and ".join(sorted(self._own.artefact.families))
        return f"{self._device.origin}; {families} as {self._engine} runs them, {self._own.origin}"

    @property
    def frameworks(self) -> frozenset[str]:
        """Frameworks whose kernels either was measured on."""
        return self._device.frameworks | self._own.frameworks

    def outside(self) -> str:
        """Say how many prices of either were not interpolated from measurements."""
        own = self._own.outside()
        return "; ".join(filter(None, (self._device.outside(), own and f"of {self._engine}: {own}")))

    def includes_quantise(self, dtype: str) -> bool:
        """Whether GEMM prices of ``dtype`` include quantising the activations."""
        return self._device.includes_quantise(dtype)

    def of_engine(self, engine: str) -> CostModel:
        """Return the prices of another engine on the same device."""
        return self if engine == self._engine else self._device.of_engine(engine)

    def predict(self, op: Op) -> Prediction:
        """Price ``op``."""
        if op.family not in self._own.artefact.families:
            return self._device.predict(op)
        own = self._own.predict(op)
        is_measured = own.source < Source.ANALYTIC
        if is_measured.all() and op.family not in _FASTER_OF_BOTH:
            return own
        other = self._device.predict(op)
        if op.family in _FASTER_OF_BOTH:
            is_measured = is_measured & ((own.latency_s < other.latency_s) | (other.source == Source.ANALYTIC))
        return Prediction(**{name: np.where(is_measured, getattr(own, name), getattr(other, name)) for name in _FIELDS})


def _stand_ins(report: FamilyReport) -> list[str]:
    """Labels that no kernel of the engine prices, in words."""
    return [f"{label} by {said}" for label, said in report.stand_ins.items()]


def _unlike_bundled(device: DeviceSpec) -> list[str]:
    """Facts that prices rest on in which a user's device differs from the bundled one of its name."""
    if device.name not in bundled_devices():
        return []
    bundled = load_device(device.name)
    return [
        name for name in ("memory_bytes_per_s", "peak_flop_per_s") if getattr(device, name) != getattr(bundled, name)
    ]


def load_costs(
    path: Path | None,
    cluster: ClusterSpec,
    clock_mhz: float | None = None,
    *,
    out_of_domain: str = "roofline",
    engine_fits: Mapping[str, Path] | None = None,
) -> "AnalyticCosts | FittedCosts":
    """Open a fitted model, or the analytic one when ``path`` is None; raises ``UserError``."""
    if path is None:
        return AnalyticCosts(cluster, clock_mhz)
    return FittedCosts(load_for_prices(path), cluster, clock_mhz, out_of_domain=out_of_domain, engine_fits=engine_fits)
