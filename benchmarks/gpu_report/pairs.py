"""The same op measured twice: rows joined by their exact shape, and the ratio of their times by kernel and size.

Three such pairs: our rows of a kernel and imported ones of the very same kernel, both hot, which hold timer and clocks
against another tool's; our rows and imported ones of another kernel of the op, which tells what our kernel is short of
the engine's; and our own rows cold and hot, which is what tables of hot rows overlook.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pandas as pd

from benchmarks.gpu_report.markdown import spread, table
from costmodel.families.kernels import kernel_family
from profiles_db.schema import FAMILIES
from profiles_db.store import Store

_HEAD: Final = ("family", "format", "kernel", "of", "size", "#points", "#p10", "#median", "#p90")
# Column of a family that says how much one call holds, and how its classes are called.
_SIZES: Final = {
    "gemm": ("m", "tokens"),
    "attention": ("prefill_q", "tokens of a prompt"),
    "moe": ("num_tokens", "tokens"),
    "elementwise": ("rows", "rows"),
    "collective": ("message_bytes", "bytes"),
}
_CLASSES: Final = ((0, 16), (16, 256), (256, 2048), (2048, 1 << 62))
_CLOSE: Final = 0.05


def same_kernel(own: Store, imported: Store | None, device: str, framework: str) -> str:
    """Hold our rows against imported ones of the same kernel, state and shape."""
    title = "## Our rows against imported rows of the same kernel\n\n"
    if imported is None:
        return title + "No imported tables were given (`--imported DB`).\n\n"
    text = (
        "Exactly the same sizes, format, state of the operands and launch: ours over theirs. A median of 1 says that\n"
        "both timers and both clocks agree; the same factor everywhere is a clock or a power limit.\n\n"
    )
    lines, ratios = [], []
    for family, both in _beside(own, imported, device, framework):
        found = both[both["backend"] == both["backend_other"]]
        lines += _lines(family, found)
        ratios += (found["latency_s"] / found["latency_s_other"]).tolist()
    if not ratios:
        return title + "No row of ours has the size, kernel and state of an imported one.\n\n"
    close = np.mean(np.abs(np.array(ratios) - 1.0) <= _CLOSE)
    said = f"**{len(ratios):,} pairs: median {np.median(ratios):.3f}, {close:.0%} within {_CLOSE:.0%}.**\n\n"
    return title + text + said + table(_HEAD, lines)


def other_kernel(own: Store, imported: Store | None, device: str, framework: str) -> str:
    """Hold our rows against imported ones of another kernel of the same op: the symmetric-memory all-reduce, FA2."""
    title = "## Our kernels against those of the engine\n\n"
    if imported is None:
        return title + "No imported tables were given.\n\n"
    lines = []
    for family, both in _beside(own, imported, device, framework):
        mine, theirs = (both[name].map(kernel_family) for name in ("backend", "backend_other"))
        lines += _lines(family, both[mine != theirs])
    if not lines:
        return title + "No op was measured on two kernels.\n\n"
    text = "Ours over theirs, same sizes and state. Such rows correct ratios and displace no table (decision 112).\n\n"
    if not any(line[0] == "collective" for line in lines):
        text += "No all-reduce is among them: one GPU has nobody to reduce with.\n\n"
    return title + text + table(_HEAD, lines)


def cold_and_hot(own: Store, device: str) -> str:
    """Set rows with operands from memory against the same with operands in the cache."""
    title = "## Cold operands against hot ones\n\n"
    lines = []
    for family in _SIZES:
        rows = _frame(own, family, device)
        if rows is None:
            continue
        keys = [*FAMILIES[family].shape_columns, "dtype", "backend", "launch"]
        cold, hot = (rows[rows["cache"] == cache] for cache in ("cold", "hot"))
        both = cold.merge(hot, on=keys, suffixes=("", "_other"))
        lines += _lines(family, both.assign(backend_other="hot"))
    if not lines:
        return title + "No row was measured both ways.\n\n"
    return title + "Cold over hot, same kernel: what tables of hot rows overlook.\n\n" + table(_HEAD, lines)


def _beside(own: Store, imported: Store, device: str, framework: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows of both stores that share shape, format, clock, cache state and launch."""
    for family in _SIZES:
        mine, theirs = _frame(own, family, device), _frame(imported, family, device)
        if mine is None or theirs is None:
            continue
        is_wanted = theirs["framework"].fillna("").map(lambda name: name == framework or not name.startswith("vllm"))
        keys = [*FAMILIES[family].shape_columns, "dtype", "clock_mhz", "cache", "launch"]
        both = mine.merge(theirs[is_wanted], on=keys, suffixes=("", "_other"))
        if len(both):
            yield family, both


def _frame(store: Store, family: str, device: str) -> pd.DataFrame | None:
    rows = store.read(family, device=device, repeats="median")
    return rows.to_pandas() if rows.num_rows else None


def _lines(family: str, both: pd.DataFrame) -> list[Sequence[str]]:
    """Return a line for every format, pair of kernels and class of size."""
    lines: list[Sequence[str]] = []
    column, unit = _SIZES[family]
    for (dtype, backend, other), found in both.groupby(["dtype", "backend", "backend_other"], dropna=False):
        for low, high in _CLASSES:
            kept = found[(found[column] >= low) & (found[column] < high)]
            if len(kept):
                ratios = (kept["latency_s"] / kept["latency_s_other"]).to_numpy()
                size = _class_name(family, kept, low, high, unit)
                lines.append((family, dtype, backend, other, size, *spread(ratios)))
    return lines


def _class_name(family: str, kept: pd.DataFrame, low: int, high: int, unit: str) -> str:
    if family == "attention" and not kept["prefill_q"].any():
        return "decode"
    if high > 1 << 60:
        return f"from {low:,} {unit}"
    return f"below {high:,} {unit}" if not low else f"{low:,} to {high:,} {unit}"
