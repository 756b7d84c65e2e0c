"""The points of the figures as CSV, a file per family: what was run, how long it took, what is said of it unseen."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from cluster_specs.files.whole import make_folder, write_whole
from costmodel.compare.held_out_prices import HeldOutPoints
from costmodel.fitted.reference import REGIMES

_DECIMALS_S: Final = 10


def write_points(folder: Path, points: Mapping[str, HeldOutPoints]) -> list[Path]:
    """Write ``points_<family>.csv`` of every family into ``folder``; return the files. Raises ``OutputError``.

    Sizes ``x`` and ``y`` are the knots' (`costmodel.fitted.knots`), as the axes of the family's figures name them.
    ``held_out_s`` is empty where nothing can be said of a point without it.
    """
    make_folder(folder)
    written = []
    for family, found in points.items():
        path = folder / f"points_{family}.csv"
        write_whole(path, partial(pyarrow.csv.write_csv, _table(found)))
        written.append(path)
    return written


def _table(found: HeldOutPoints) -> pa.Table:
    knots = found.knots
    features = dict(zip(knots.features, knots.shape[found.shape].T, strict=True))
    return pa.table(
        {
            "label": found.label_text,
            **features,
            "x": knots.x[found.row],
            "y": knots.y[found.row],
            "region": np.array(REGIMES)[found.regime],
            "measured_s": np.round(found.measured_s, _DECIMALS_S),
            "held_out_s": pa.array(np.round(found.predicted_s, _DECIMALS_S), from_pandas=True),
            "error_frac": pa.array(np.round(found.predicted_s / found.measured_s - 1.0, 5), from_pandas=True),
        }
    )
