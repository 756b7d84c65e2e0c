"""Which bundled device spec a driver's name for an accelerator means.

Drivers give one product several names ("NVIDIA H100 80GB HBM3" is the SXM board) and one name to two memory sizes, so
the match is on the words that identify the product, and on the memory where that decides.
"""

from typing import Final

# Words the driver's name must all hold (lower case) -> spec; the first match wins, so the narrower come first.
_SPECS: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("h200",), "h200-sxm"),
    (("h100", "pcie"), "h100-pcie"),
    (("h100", "hbm3"), "h100-sxm"),
    (("h100", "sxm"), "h100-sxm"),
    (("a100", "sxm", "80gb"), "a100-sxm-80gb"),
    (("a100", "sxm", "40gb"), "a100-sxm-40gb"),
    (("v100", "sxm2"), "v100-sxm2"),
    (("b200",), "b200"),
    (("l40s",), "l40s"),
    (("mi300x",), "mi300x"),
)
# Products whose names hold the words above but are other boards with other peaks.
_OTHERS: Final = ("nvl", "gb200", "gh200", "mig")


def spec_name_of(driver_name: str) -> str | None:
    """Return the bundled spec of an accelerator as the driver names it; None when no bundled spec is that board."""
    name = driver_name.lower()
    if any(other in name for other in _OTHERS):
        return None
    return next((spec for words, spec in _SPECS if all(word in name for word in words)), None)
