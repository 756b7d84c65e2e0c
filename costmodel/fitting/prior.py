"""An earlier fit that new measurements start from: of the same device, or of a relative.

Two devices of one generation, or two measurements of one device, differ by a factor that varies far more slowly with
size than either time does: a few points say what it is.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.files.reading import is_file
from cluster_specs.files.shown import shown
from costmodel.bundled_fits import bundled_fit, devices_with_fit
from costmodel.cost_model import Source
from costmodel.fit_file.artefact import Artefact, load_artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.measured_device import choose_cluster
from costmodel.fitting.measurements import Measurements
from costmodel.ops.op_types import Op


@dataclass(slots=True)
class Prior:
    """Prices of an earlier fit, at any clock."""

    artefact: Artefact
    cluster: ClusterSpec
    path: Path | None = None
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
        """The engine, and its version, that most of its rows were measured through; empty where none."""
        counts = {name: count for name, count in self.artefact.provenance.frameworks.items() if name}
        return max(counts, key=counts.__getitem__, default="")

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
        found = self._costs[clock_mhz].predict(op)
        return None if np.any(found.source == Source.ANALYTIC) else found.latency_s
