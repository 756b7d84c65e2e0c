"""Analytic constants of a device from its measurements: every family says which of them its rows tell."""

from collections.abc import Iterable

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.families.all import OP_FAMILIES
from costmodel.fitted.calibration import Calibrated
from costmodel.fitting.measurements import read_measurements
from profiles_db.store import Store


def calibrate(store: Store, cluster: ClusterSpec, *, framework: str | None = None) -> list[Calibrated]:
    """Derive the constants; raises ``UserError`` when the measurements hold none of them."""
    found: list[Calibrated] = []
    device = cluster.device.name
    for family in OP_FAMILIES.values():
        if family.calibrate is not None:
            measured = read_measurements(store, family, device, framework)
            found += family.calibrate(family, measured.columns, cluster)
    if not found:
        raise UserError(
            f"{store.root}: no constant of device {device} can be calibrated from its rows",
            hint="import or measure GEMM, attention or collective rows of it",
        )
    return found


def constants_toml(constants: Iterable[Calibrated]) -> str:
    """Lines for a device's TOML, sub-tables last."""
    plain: list[str] = []
    nested: list[str] = []
    for constant in constants:
        name = constant.key.rpartition(".")[2]
        line = f'{name} = {{ value = {constant.value:.3g}, source = "{constant.source}", error = "{constant.error}" }}'
        (nested if "." in constant.key else plain).append(line)
    tables = ["[analytic]", *plain]
    if nested:
        tables += ["", "[analytic.gemm_efficiency]", *nested]
    return "\n".join(tables) + "\n"
