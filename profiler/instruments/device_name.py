"""Which bundled device spec a driver's name for an accelerator means.

Drivers give one product several names ("NVIDIA H100 80GB HBM3" is the SXM board) and one name to two memory sizes, so
the match is on the words that identify the product, and on the memory where that decides.
"""

import re
from typing import Final

# Words the driver's name must all hold (lower case) -> spec.
_SPECS: Final[tuple[tuple[str, str], ...]] = (
    ("gb300", "gb300"),
    ("gb200", "gb200"),
    ("b300", "b300"),
    ("b200", "b200"),
    ("gh200 144g", "gh200-144gb"),
    ("gh200 480gb", "gh200-96gb"),  # named after the memory of its CPU
    ("h200", "h200-sxm"),
    ("h100 nvl", "h100-nvl"),
    ("h100 pcie", "h100-pcie"),
    ("h100 hbm3", "h100-sxm"),
    ("h100 sxm5", "h100-sxm"),
    ("h20", "h20"),
    ("a100 sxm4 80gb", "a100-sxm-80gb"),
    ("a100 sxm4 40gb", "a100-sxm-40gb"),
    ("v100 sxm2", "v100-sxm2"),
    ("rtx pro 6000 blackwell", "rtx-pro-6000"),
    ("rtx 5090", "rtx-5090"),
    ("rtx 4090", "rtx-4090"),
    ("l40s", "l40s"),
    ("l4", "l4"),
    ("a10g", "a10g"),
    ("mi300x", "mi300x"),
    ("mi325x", "mi325x"),
    ("mi355x", "mi355x"),
)
# Words that make another board of a product, with other peaks, unless the product's own words hold them.
_OTHERS: Final = frozenset({"nvl", "mig", "laptop", "d", "max", "3e"})


def spec_name_of(driver_name: str) -> str | None:
    """Return the bundled spec of an accelerator as the driver names it; None when no bundled spec is that board."""
    words = set(re.split(r"[^a-z0-9]+", driver_name.lower()))
    for product, spec in _SPECS:
        own = set(product.split())
        if own <= words:
            return None if (_OTHERS - own) & words else spec
    return None
