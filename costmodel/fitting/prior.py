"""An earlier fit that new measurements start from: of the same device, or of a relative.

Two devices of one generation, or two measurements of one device, differ by a factor that varies far more slowly with
size than either time does: a few points say what it is.
"""

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.files.reading import is_file
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from costmodel.bundled_fits import bundled_fit, devices_with_fit
from costmodel.cost_model import Source
from costmodel.families.all import OP_FAMILIES
from costmodel.fit_file.artefact import load_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted.knots import FamilyKnots, with_labels
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.measured_device import choose_cluster
from costmodel.fitting.measurements import Measurements
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.op_types import Gemm, Op
from costmodel.ops.small_ops import small_op

_LEAST_PRODUCT: Final = 0.2  # of a time that holds its rounding


@dataclass(slots=True)
class Prior:
    """Prices of an earlier fit, at any clock.

    Its products may hold the rounding of their activations. ``rounded_apart`` names formats whose new rows do not:
    there the fit's own price of the rounding is taken off, and its labels are not taken whole.
    """

    artefact: Artefact
    cluster: ClusterSpec
    path: Path | None = None
    rounded_apart: frozenset[str] = frozenset()
    _costs: dict[float | None, FittedCosts] = field(default_factory=dict)

    @classmethod
    def choose(cls, choice: str, device: str) -> Self | None:
        """Open what a user chose: ``auto`` (the bundled fit of ``device``, if any), ``none``, a device or a file.

        Raises ``UserError`` for anything else and for a file that cannot be used.
        """
        if choice == "none":
            return None
        path = bundled_fit(device if choice == "auto" else choice)
        if path is None:
            if choice == "auto":
                return None
            path = Path(choice)
            if not is_file(path):
                raise UserError(
                    f"prior {shown(choice)}: no such file, and no device with a bundled fit",
                    hint=f"auto, none, a file of `apex fit`, or one of {', '.join(devices_with_fit())}",
                )
        artefact = load_artefact(path)
        return cls(artefact, choose_cluster(artefact.provenance.device, None), path)

    @property
    def name(self) -> str:
        """The device it was fitted for."""
        return self.artefact.provenance.device

    @property
    def described(self) -> str:
        """The fit in words: device and date."""
        return f"the fit of {self.name} of {self.artefact.provenance.created_at[:10]}"

    @property
    def framework(self) -> str:
        """The engine, and its version, that its rows were held against, else most were measured through; or empty."""
        provenance = self.artefact.provenance
        counts = {name: count for name, count in provenance.frameworks.items() if name}
        return provenance.engine or max(counts, key=counts.__getitem__, default="")

    def has_seen(self, measured: Measurements) -> str:
        """Say why the fit may know these rows, empty when it cannot: what has seen a row cannot be judged on it."""
        provenance = self.artefact.provenance
        if runs := set(measured.run_ids) & set(provenance.run_ids):
            return f"it was fitted to run {min(runs)} itself"
        devices = set(measured.columns["device"].astype(np.str_).tolist())
        imported = (set(measured.origins) & set(provenance.origins)) - {"measured"}
        if imported and self.name in devices:
            return f"it was fitted to {min(imported)} tables of the same device"
        return ""

    def latency_s(self, op: Op, clock_mhz: float | None = None) -> NDArray[np.float64] | None:
        """Return the price of ``op``, None where the fit has none of its own."""
        if clock_mhz not in self._costs:
            self._costs[clock_mhz] = FittedCosts(self.artefact, self.cluster, clock_mhz)
        costs = self._costs[clock_mhz]
        found = costs.predict(op)
        if np.any(found.source == Source.ANALYTIC):
            return None
        if not isinstance(op, Gemm) or op.dtype not in self.rounded_apart:
            return found.latency_s
        width, out = int(np.max(op.k)), SCHEMES[op.dtype].activation
        rounding = costs.predict(small_op("quantise", rows=op.m, width=width, dtype="bf16", out=out, scales=1))
        if np.any(rounding.source == Source.ANALYTIC):
            return None
        return np.maximum(found.latency_s - rounding.latency_s, _LEAST_PRODUCT * found.latency_s)

    def apart_from(self, columns: Mapping[str, NDArray[np.generic]]) -> Self:
        """Return the fit as one that new products ``columns`` with rounding outside start from."""
        outside = np.unique(columns["dtype"][~columns["quantise"].astype(bool)].astype(np.str_)).tolist()
        return replace(self, rounded_apart=frozenset(outside) & set(self.artefact.provenance.quantise_included))

    def same_contract(self, fitted: Mapping[str, FamilyKnots]) -> Self:
        """Return the fit without labels that hold the rounding where those ``fitted`` of their format do not."""
        families = dict(self.artefact.families)
        for name, own in fitted.items():
            family, known = OP_FAMILIES[name], families.get(name)
            if known is None or not family.contract:
                continue
            formats = {family.part(label, "dtype") for label in own.labels} & self.rounded_apart
            kept = [label for label in known.labels if family.part(label, "dtype") not in formats]
            families[name] = with_labels(known, kept) if kept else own
        return replace(self, artefact=replace(self.artefact, families=families))
