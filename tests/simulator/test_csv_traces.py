"""CSV traces: a few rows of plain numbers are split here, all others by Arrow, and nobody can tell which."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.workload.columns import Numerals
from simulator.workload.traces.csv_traces import iter_csv
from simulator.workload.traces.read_trace import read_trace
from simulator.workload.workload import Workload

_HEAD = "arrival_s,prompt_tokens,output_tokens"
_SECONDS = st.one_of(
    st.integers(0, 10**6).map(str), st.floats(0, 1e6, allow_subnormal=False).map(lambda value: f"{value:.12f}")
)
_ROWS = st.lists(st.tuples(_SECONDS, st.integers(1, 5000), st.integers(0, 5000)), min_size=2, max_size=20)


def _read(path: Path, text: str) -> Workload | str:
    path.write_text(text, encoding="utf-8")
    try:
        return read_trace(path, sort=True)
    except UserError as error:
        return f"{error} {error.hint}"


@given(rows=_ROWS, ending=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60)
def test_quotes_change_nothing(
    rows: list[tuple[str, int, int]], ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows whose first cell is quoted, which Arrow reads, give the same requests to the bit, or the same message."""
    path = tmp_path_factory.mktemp("csv") / "trace.csv"
    lines = [",".join(map(str, row)) for row in rows]
    plain = _read(path, ending.join([_HEAD, *lines]) + ending)
    first, _, rest = lines[0].partition(",")
    quoted = _read(path, ending.join([_HEAD, f'"{first}",{rest}', *lines[1:]]) + ending)
    if isinstance(plain, str) or isinstance(quoted, str):
        assert plain == quoted
        return
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        found, wanted = getattr(plain, name), getattr(quoted, name)
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "row",
    [
        "-1,5,5",
        "1e3,5,5",
        " 1,5,5",
        '1,"5",5',
        "1,5,nan",
        "1,,5",
        "2023-11-16 18:17:03,5,5",
        "1,5",
        "1,5,5,5",
        "1\r,5,5",
    ],
)
def test_other_rows_are_left_to_arrow(row: str, tmp_path: Path) -> None:
    """A sign, an exponent, a space, a quote, a date or another number of fields: none is split at commas here."""
    path = tmp_path / "trace.csv"
    path.write_text(f"{_HEAD}\n0,5,5\n{row}\n", encoding="utf-8", newline="")
    try:
        (chunk,) = iter_csv(path, _HEAD.split(","), (), 100)
    except UserError:
        return
    assert not any(isinstance(values, Numerals) for values in chunk.values.values())


def test_the_bundled_trace_needs_no_arrow() -> None:
    """Reading the bundled trace imports no pyarrow, which takes longer than the reading."""
    script = (
        "import sys\nfrom simulator.workload.parse import parse_workload\n"
        "assert len(parse_workload('chat-synthetic')) == 1000\nassert 'pyarrow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
