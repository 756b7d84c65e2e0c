"""Which power caps a device can be set to and hold: from what it draws awake at its lowest clock to its TDP.

Below the former it would draw more than the cap without any work; drivers take no cap above the board's own limit.
"""

from cluster_specs.device import DeviceSpec
from cluster_specs.errors import UserError
from costmodel.power_model import PowerModel


def cap_refusal(power_cap_w: float, device: DeviceSpec, power: PowerModel) -> str | None:
    """Why a device cannot be run under a cap; None when it can."""
    if device.kind != "gpu":
        return f"power cap is {power_cap_w:g} W, but the power of a {device.kind} ({device.name}) has no model"
    if power_cap_w > device.tdp_w:
        return f"power cap is {power_cap_w:g} W, must be at most {device.tdp_w:g} W, the limit of {device.name}"
    least_w = least_cap_w(power)
    if power_cap_w <= least_w:
        return (
            f"power cap is {power_cap_w:g} W, must be above the {least_w:.0f} W that {device.name} draws awake at its "
            f"lowest clock ({power.idle_w:g} W idle)"
        )
    return None


def least_cap_w(power: PowerModel) -> float:
    """Return what a device draws awake at its lowest clock, in watts, where its power falls least with the clock."""
    return float(power.voltage_ends()[1].awake_w_at(power.least_mhz))


def check_cap(power_cap_w: float, device: DeviceSpec, power: PowerModel, place: str) -> None:
    """Refuse a cap that a person asked for at ``place``; raises ``UserError`` with the caps that can be."""
    reason = cap_refusal(power_cap_w, device, power)
    if reason is None:
        return
    hint = f"caps of {device.name} are above {least_cap_w(power):.0f} W and at most {device.tdp_w:g} W"
    raise UserError(f"{place}: {reason}", hint=hint if device.kind == "gpu" else "caps are modelled for GPUs alone")
