"""The store against a plain list of rows, under any sequence of what users and accidents do to it."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster_specs.errors import UserError
from profiles_db.merging import compact_files, merge_from
from profiles_db.store import open_store

ROW = {"n": 8, "k": 8, "scaling": "none", "quantise": False, "device": "cpu", "backend": "torch.mkl", "dtype": "fp32"}
ROW |= {"launch": "eager", "cache": "hot", "status": "ok", "origin": "measured"}
POINTS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([1e-3, 2e-3, 3e-3])), min_size=1, max_size=3)

Point = tuple[int, float, str]


def _rows(points: list[tuple[int, float]]) -> list[dict[str, Any]]:
    return [{**ROW, "m": m, "latency_s": latency} for m, latency in points]


class StoreMachine(RuleBasedStateMachine):
    """Appends, merges, compacts and damages; after every step the store holds exactly the rows it should."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = open_store(self.folder / "own", bundled=None)
        self.expected: Counter[Point] = Counter()
        self.files: dict[Path, list[Point]] = {}
        self.runs = 0

    def teardown(self) -> None:
        """Remove the folder of this example."""
        shutil.rmtree(self.folder)

    @rule(points=POINTS)
    def append(self, points: list[tuple[int, float]]) -> None:
        """Write one file of a run of its own."""
        self.runs += 1
        run_id = f"run-{self.runs}"
        (path,) = self.store.append("gemm", _rows(points), run_id)
        self.files[path] = [(m, latency, run_id) for m, latency in points]
        self.expected.update(self.files[path])

    @rule(points=POINTS)
    def refuse(self, points: list[tuple[int, float]]) -> None:
        """Append rows of which the last is impossible: nothing may be written."""
        bad = [*_rows(points), {**_rows(points)[0], "latency_s": -1.0}]
        with pytest.raises(UserError):
            self.store.append("gemm", bad, "bad")

    @rule()
    def compact(self) -> None:
        """Fold all files into one."""
        if compact_files(self.store):
            (path,) = (file.path for file in self.store.iter_files("gemm"))
            self.files = {path: list(self.expected.elements())}

    @rule(points=POINTS)
    def merge_twice(self, points: list[tuple[int, float]]) -> None:
        """Bring in another database, and again: the second time adds nothing."""
        self.runs += 1
        run_id = f"run-{self.runs}"
        other = open_store(self.folder / run_id, bundled=None)
        other.append("gemm", _rows(points), run_id)
        before = {file.path for file in self.store.iter_files("gemm")}
        merge_from(self.store, other)
        merge_from(self.store, other)
        added = [(m, latency, run_id) for m, latency in points]
        self.expected.update(added)
        for path in {file.path for file in self.store.iter_files("gemm")} - before:
            self.files[path] = added

    @precondition(lambda self: self.files)
    @rule(data=st.data(), share=st.floats(0, 0.99))
    def damage(self, data: st.DataObject, share: float) -> None:
        """Cut a file: reading says so once, and goes on without its rows."""
        path = data.draw(st.sampled_from(sorted(self.files)))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match="damaged"):
            self.store.read("gemm")
        self.expected.subtract(self.files.pop(path))
        self.expected = +self.expected

    @invariant()
    def every_row_is_there_once(self) -> None:
        """Read exactly what was written, less what was damaged."""
        rows = self.store.read("gemm").to_pylist()
        assert Counter((row["m"], row["latency_s"], row["run_id"]) for row in rows) == self.expected

    @invariant()
    def medians_count_the_rows(self) -> None:
        """Fold by key: the repeats add up to the rows, one row per point."""
        folded = self.store.read("gemm", repeats="median").to_pylist()
        assert {row["m"]: row["repeats"] for row in folded} == dict(Counter(m for m, _, _ in self.expected.elements()))


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=12, stateful_step_count=10)
