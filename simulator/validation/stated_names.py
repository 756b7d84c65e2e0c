"""From what results call hardware, engines and formats to the names that clusters, profiles and plans have here."""

from typing import Final

from cluster_specs.bundled_names import bundled_devices
from simulator.model.spec import ModelSpec

# Devices whose name leaves out what was measured: the public benchmarks' nodes are SXM boards.
_DEVICES: Final = {"h100": "h100-sxm", "h200": "h200-sxm", "a100": "a100-sxm-80gb", "rtx6000pro": "rtx-pro-6000"}
_NODE_DEVICES: Final = 8
_RACKS: Final = ("gb200", "gb300")
_RACK_DEVICES: Final = 72
# Weight formats that a result's word stands for, the one of a dense checkpoint of no format of its own first.
_FORMATS: Final = {
    "fp8": ("fp8", "fp8_block"),
    "fp4": ("nvfp4", "mxfp4"),
    "mxfp4": ("mxfp4",),
    "nvfp4": ("nvfp4",),
    "int4": ("w4a16",),
    "bf16": ("bf16",),
}


def device_of(hardware: str) -> str | None:
    """Return the bundled device behind a runner's name such as ``h100-dgxc`` or ``cluster:gb200-nv``; None if none."""
    first = hardware.lower().rpartition(":")[2].replace("_", "-").split("-")[0]
    name = _DEVICES.get(first, first)
    return name if name in bundled_devices() else None


def cluster_of(device: str, devices: int) -> str:
    """Return the name of the cluster of whole nodes that holds so many devices."""
    node = _RACK_DEVICES if device in _RACKS else _NODE_DEVICES
    nodes = -(-devices // node)
    return f"{device}-{node}" if nodes == 1 else f"{device}-{nodes}x{node}"


def weight_format(precision: str, model: ModelSpec) -> tuple[str | None, str | None]:
    """Return the format to add to a plan so that the model has that precision, and why there is none, if so."""
    formats = _FORMATS.get(precision)
    if formats is None:
        return None, f"weights of {precision} are not known here"
    own = {model.quantisation or model.dtype, *model.schemes}
    if own & set(formats):
        return None, None
    if model.quantisation is None and not model.schemes:
        return formats[0], None
    return None, f"the result's weights are {precision}, those of {model.name} {', '.join(sorted(own))}"
