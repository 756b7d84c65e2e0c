"""Fitted models that come with the package, by device, and the choice between them and the analytic model.

They are fits of public kernel tables (`make fits` makes them again; provenance is inside each file and in
`profiles_db/fitted/README.md`), so that a search is not left with calibrated constants where better is known.
"""

from pathlib import Path
from typing import Final

import profiles_db
from cluster_specs.cluster import ClusterSpec
from costmodel.cost_model import CostModel
from costmodel.fitted_costs import load_costs

_FOLDER: Final = Path(profiles_db.__file__).parent / "fitted"


def bundled_fit(device: str) -> Path | None:
    """Return the bundled fitted model of a device; None where there is none."""
    return _FOLDER / f"{device}.parquet" if device in devices_with_fit() else None


def devices_with_fit() -> list[str]:
    """Names of the devices whose fitted model is bundled, in order."""
    return sorted(path.stem for path in _FOLDER.glob("*.parquet"))


def engine_fits(device: str) -> dict[str, Path]:
    """Return the bundled fits of engines whose kernels on a device were measured apart, by engine."""
    return {path.parent.name: path for path in sorted(_FOLDER.glob(f"*/{device}.parquet"))}


def choose_costs(
    choice: Path | str | None,
    cluster: ClusterSpec,
    clock_mhz: float | None = None,
    *,
    out_of_domain: str = "roofline",
) -> CostModel:
    """Open the cost model a user chose: a file, ``analytic``, or (None) the bundled fit, else the analytic model.

    ``CostModel.origin`` says which it became. Raises ``UserError`` for a file that cannot be used.
    """
    path = bundled_fit(cluster.device.name) if choice is None else Path(choice)
    if str(choice) == "analytic":
        path = None
    own = engine_fits(cluster.device.name) if choice is None else None
    return load_costs(path, cluster, clock_mhz, out_of_domain=out_of_domain, engine_fits=own)
