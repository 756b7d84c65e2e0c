"""Which bundled device a driver's name for an accelerator means.

Drivers give one product several names ("NVIDIA H100 80GB HBM3" is the SXM board; older ones leave the vendor out), so
a product is known by the words that identify it: all words of one of its ``driver_names`` but the vendor's must occur,
and none that makes another board of it, with other peaks.
"""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent / "devices"
_VENDOR_WORDS: Final = frozenset({"nvidia", "tesla", "geforce", "amd", "instinct"})
# Words that make another board of a product unless the product's own name holds them.
_OTHER_BOARDS: Final = frozenset({"nvl", "mig", "laptop", "d", "max", "3e", "pcie"})


def device_of_driver(driver_name: str) -> str | None:
    """Return the bundled device that the driver names so; None when no bundled device is that board."""
    words = _words(driver_name)
    found = [(len(own), device) for own, device in _products() if own <= words and not (_OTHER_BOARDS - own) & words]
    return max(found)[1] if found else None


@cache
def _products() -> tuple[tuple[frozenset[str], str], ...]:
    """List the identifying words and the name of every bundled device."""
    products = []
    for path in sorted(_FOLDER.glob("*.toml")):
        spec = tomllib.loads(path.read_text(encoding="utf-8"))
        products += [(_words(name) - _VENDOR_WORDS, path.stem) for name in spec.get("driver_names", ())]
    return tuple(products)


def _words(name: str) -> frozenset[str]:
    return frozenset(re.split(r"[^a-z0-9]+", name.lower())) - {""}
