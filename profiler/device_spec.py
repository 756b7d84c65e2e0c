"""The stated peaks of a bundled device, also where pydantic is missing (GPU images often hold little beside torch)."""

import tomllib
from importlib.resources import files
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from cluster_specs.device import DeviceSpec


def device_spec(name: str) -> "DeviceSpec | None":
    """Return the spec of a bundled device, None where there is none of that name."""
    path = files("cluster_specs") / "devices" / f"{name}.toml"
    if not path.is_file():
        return None
    try:
        from cluster_specs.load import load_device
    except ImportError:
        # The file was checked when it was bundled; its keys are the spec's fields.
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        values["clock"] = SimpleNamespace(**values["clock"])
        return cast("DeviceSpec", SimpleNamespace(**values))
    return load_device(name)
