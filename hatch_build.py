"""Build hook: compiles the engine, into the wheel or, for an editable install, into the checkout.

Without a linker on the building machine nothing is built and the wheel is plain Python: the engine is then compiled at
first use, which needs the extra `jit`. The library names no other one, so it loads under any C library of its platform.
"""

import sys
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EngineHook(BuildHookInterface[Any]):
    """Compiles the engine where it has not been compiled yet."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the compiled engine to what is built; ``version`` is `editable` or `standard`."""
        sys.path.insert(0, self.root)
        from simulator.engine.native.linker import LinkError
        from simulator.engine.native.load import built_engine

        try:
            path = built_engine()
        except LinkError as error:
            self.app.display_warning(f"the engine is not compiled now but at first use: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"
        if version != "editable":
            build_data["force_include"][str(path)] = f"simulator/engine/native/{path.parent.name}/{path.name}"


def _platform() -> str:
    """Platforms the wheel is for."""
    system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    machine = system.removeprefix("linux_")
    return system if machine == system else f"manylinux_2_17_{machine}.musllinux_1_1_{machine}"
