"""Logs of vLLM's scheduler that are kept, so that the engine is held against them where no vLLM is installed.

``python -m tests.conformance.kept_logs VLLM_PYTHON`` makes them again: twelve cases of every group, and a server whose
answers push prefixes out. A line of the file holds a case and its log; columns are kept as differences from row to row,
which compress to a fraction.
"""

import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.conformance.scheduler_cases import GROUPS, Case, draw_case, pressure_case
from tests.conformance.scheduler_logs import Log, VllmScheduler

KEPT: Final = Path(__file__).with_name("vllm_logs.jsonl.xz")
_SEEDS: Final = range(50_000, 50_012)
PRESSURE_BLOCKS: Final = (2000, 2600, 20_000)


def read() -> Iterator[tuple[str, Case, Log]]:
    """Yield (version of vLLM, case, log) of every kept case."""
    with lzma.open(KEPT, "rt", encoding="utf-8") as file:
        version = str(json.loads(next(file))["vllm"])
        for line in file:
            kept = json.loads(line)
            yield version, kept["case"], {name: summed(kept[name]) for name in ("steps", "requests")}


def _cases() -> Iterator[Case]:
    for group in GROUPS:
        yield from (draw_case(group, seed) for seed in _SEEDS)
    yield from map(pressure_case, PRESSURE_BLOCKS)


def _write(python: str) -> None:
    with VllmScheduler(python) as vllm, lzma.open(KEPT, "wt", preset=9, encoding="utf-8") as file:
        print(json.dumps({"vllm": vllm.version}), file=file)
        for case in _cases():
            print(_line(case, vllm.log(case)), file=file)


def _line(case: Case, log: Log) -> str:
    kept = {"case": case} | {name: as_differences(log[name]) for name in ("steps", "requests")}
    return json.dumps(kept, separators=(",", ":"))


def as_differences(rows: list[list[int]]) -> list[list[int]]:
    """Return the columns of a table, each value less the one before it."""
    return [[b - a for a, b in zip([0, *column], column, strict=False)] for column in zip(*rows, strict=True)]


def summed(columns: list[list[int]]) -> list[list[int]]:
    """Return the rows of such columns."""
    summed = []
    for column in columns:
        total, values = 0, []
        for step in column:
            total += step
            values.append(total)
        summed.append(values)
    return [list(row) for row in zip(*summed, strict=True)]


if __name__ == "__main__":
    _write(sys.argv[1])
