"""How all figures look: colours, markers, and ticks of logarithmic axes.

Colours are those of Okabe and Ito (2008), which people with the common colour deficiencies tell apart.
"""

from typing import Final

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import Formatter, LogLocator, NullFormatter

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_FEW_DECADES: Final = 1.7


def label_log_axis(axis: Axis, formatter: Formatter, *, most: int = 9) -> None:
    """Label powers of ten, over few decades twice and five times them as well; call it when the limits are known."""
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if np.log10(high / low) < _FEW_DECADES else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=most))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())
