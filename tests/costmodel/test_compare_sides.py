"""Two sets of measurements side by side: what matches, what the ratio is, what is said about the rest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from costmodel.compare.compare_command import compare
from costmodel.compare.sides import coverage_notes, match_sides, parse_side, ratio_rows, widest_rows
from profiles_db.store import Store, open_store


def gemm(m: int, latency_s: float, **overrides: Any) -> dict[str, Any]:
    return {
        "m": m,
        "n": 64,
        "k": 32,
        "scaling": "none",
        "quantise": False,
        "device": "old",
        "backend": "torch.cublas",
        "dtype": "bf16",
        "latency_s": latency_s,
        "launch": "graph",
        "cache": "cold",
        "status": "ok",
        "origin": "measured",
        **overrides,
    }


Fill = Callable[..., Path]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Write gemm rows into a database folder."""

    def write(*rows: dict[str, Any], name: str = "db") -> Path:
        store = Store((open_store(tmp_path / name, bundled=None)).layers)
        store.append("gemm", list(rows), "run-1")
        return tmp_path / name

    return write


def test_ratio_is_b_over_a_of_shared_points(fill: Fill) -> None:
    """Points match on shape and number format; what only one side has is counted, not compared."""
    db = fill(
        gemm(1, 2e-6),
        gemm(2, 4e-6),
        gemm(8, 9e-6),
        gemm(1, 1e-6, device="new"),
        gemm(2, 3e-6, device="new", backend="triton", launch="eager"),
        gemm(2, 5e-6, device="new", dtype="fp16"),
    )
    a, b = parse_side("old", db), parse_side("new", db)
    (match,) = match_sides(a, b, families=["gemm"])
    assert sorted(zip(match.keys["m"].to_pylist(), match.ratio.tolist(), strict=True)) == [(1, 0.5), (2, 0.75)]
    assert (match.only_a, match.only_b) == (1, 1)
    assert coverage_notes(a, b, [match]) == ["gemm: 2 points in both, 1 only in old, 1 only in new"]


def test_further_columns_can_be_asked_to_match(fill: Fill) -> None:
    """--match backend leaves only the points both sides ran on the same backend."""
    db = fill(gemm(1, 2e-6), gemm(2, 4e-6), gemm(1, 1e-6, device="new"), gemm(2, 3e-6, device="new", backend="triton"))
    (match,) = match_sides(parse_side("old", db), parse_side("new", db), families=["gemm"], also=["backend"])
    assert match.keys["m"].to_pylist() == [1]


def test_the_fastest_of_several_rows_stands_for_a_side_and_is_announced(fill: Fill) -> None:
    """Alternatives under one key are not averaged: the fastest counts, and a note says how many keys had some."""
    db = fill(gemm(1, 2e-6), gemm(1, 6e-6, backend="triton"), gemm(1, 4e-6, device="new"))
    a, b = parse_side("old", db), parse_side("new", db)
    (match,) = match_sides(a, b, families=["gemm"])
    assert match.ratio.tolist() == [2.0]
    assert any("1 points of old have several rows" in note for note in coverage_notes(a, b, [match]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(
    latencies=st.lists(st.tuples(st.floats(1e-6, 1e-2), st.floats(1e-6, 1e-2)), min_size=1, max_size=30), data=st.data()
)
def test_swapping_the_sides_inverts_every_ratio(
    tmp_path_factory: pytest.TempPathFactory, latencies: list[tuple[float, float]], data: st.DataObject
) -> None:
    """B against A is one over A against B, point by point, and row order does not matter."""
    rows = [gemm(m + 1, a) for m, (a, _) in enumerate(latencies)]
    rows += [gemm(m + 1, b, device="new") for m, (_, b) in enumerate(latencies)]
    db = tmp_path_factory.mktemp("db")
    open_store(db, bundled=None).append("gemm", data.draw(st.permutations(rows)), "run-1")
    old, new = parse_side("old", db), parse_side("new", db)
    forth, back = match_sides(old, new, families=["gemm"])[0], match_sides(new, old, families=["gemm"])[0]
    by_m = dict(zip(back.keys["m"].to_pylist(), back.ratio.tolist(), strict=True))
    assert len(forth.ratio) == len(latencies)
    for m, ratio in zip(forth.keys["m"].to_pylist(), forth.ratio.tolist(), strict=True):
        assert ratio == pytest.approx(1 / by_m[m], rel=1e-12)
        assert ratio == pytest.approx(latencies[m - 1][1] / latencies[m - 1][0], rel=1e-12)


def test_regions_divide_the_points_of_a_family(fill: Fill) -> None:
    """The regions of one number format hold each of its points once."""
    db = fill(
        *(gemm(m, latency) for m, latency in ((1, 5e-6), (2, 50e-6), (3, 60e-6), (4, 900e-6))),
        *(gemm(m, 1e-5, device="new") for m in (1, 2, 3, 4)),
    )
    rows = ratio_rows(match_sides(parse_side("old", db), parse_side("new", db), families=["gemm"]))
    points = {row["region"]: row["points"] for row in rows}
    assert points == {"all": 4, "< 20 us": 1, "20-200 us": 2, ">= 200 us": 1}


def test_widest_ratios_come_first_in_either_direction(fill: Fill) -> None:
    """A point ten times faster is as far off as one ten times slower."""
    db = fill(
        *(gemm(m, 1e-5) for m in (1, 2, 3)),
        *(gemm(m, t, device="new") for m, t in ((1, 1.2e-5), (2, 0.5e-6), (3, 1e-4))),
    )
    rows = widest_rows(match_sides(parse_side("old", db), parse_side("new", db), families=["gemm"]), 2)
    assert [row["ratio"] for row in rows] == pytest.approx([0.05, 10.0])
    assert "m=2 n=64 k=32" in rows[0]["point"]


def test_clocks_origins_and_databases_are_sides_too(fill: Fill) -> None:
    """A side may be a locked clock, an origin or another folder."""
    db = fill(gemm(1, 2e-6, clock_mhz=1410.0), gemm(1, 4e-6, clock_mhz=705.0), gemm(1, 3e-6, origin="imported:vidur"))
    other = fill(gemm(1, 8e-6), name="other")
    slow = match_sides(parse_side("clock=1410", db), parse_side("clock=705", db))[0]
    assert slow.ratio.tolist() == [2.0]
    unlocked = match_sides(parse_side("clock=unlocked", db), parse_side("origin=measured,clock=705", db))[0]
    assert unlocked.latency_a_s.tolist() == [3e-6]
    folders = match_sides(parse_side("origin=imported:vidur", db), parse_side(str(other), db))[0]
    assert folders.latency_b_s.tolist() == [8e-6]
    assert match_sides(parse_side("clock=705", db), parse_side(f"db={other},dtype=bf16", None))[0].ratio.tolist() == [
        2.0
    ]


@pytest.mark.parametrize(
    ("left", "right", "options", "message"),
    [
        ("old", "none", {}, "none: no measured row matches"),
        ("old", "dtype=fp16", {}, "share no point"),
        ("old", "colour=red", {}, "'colour=red' does not choose rows"),
        ("old", "clock=fast", {}, "clock is 'fast', must be MHz or 'unlocked'"),
        ("old", "db=/nowhere", {}, "db is '/nowhere', which is not a folder"),
        ("old", "old", {"families": ["poetry"]}, "family 'poetry' is not known"),
        ("old", "old", {"also": ["latency_s"]}, "--match latency_s: no such column"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused(
    fill: Fill, left: str, right: str, options: dict[str, Any], message: str
) -> None:
    """A side without rows, without a shared point or with an unknown key is named."""
    db = fill(gemm(1, 2e-6), gemm(5, 2e-6, device="new", dtype="fp16"))
    with pytest.raises(UserError, match=message):
        match_sides(parse_side(left, db), parse_side(right, db), **options)


def test_command_prints_json_and_writes_a_self_contained_page(fill: Fill, tmp_path: Path) -> None:
    """--json is one document on stdout; --out leaves a page that loads nothing, and one PNG per figure."""
    rng = np.random.default_rng(0)
    rows = [gemm(m, 1e-6 * m) for m in range(1, 60)]
    rows += [gemm(m, 1e-6 * m * rng.uniform(0.8, 1.2), device="new") for m in range(1, 60)]
    db, out = fill(*rows), tmp_path / "page"
    result = CliRunner().invoke(compare, ["old", "new", "--db", str(db), "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["families"][0]["points"] == 59
    assert len(document["widest"]) == 3
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "ratio_gemm.png"]
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert not any(f'{attribute}="http' in page for attribute in ("src", "href"))


def test_command_refuses_three_sides() -> None:
    """A third side is a usage message."""
    result = CliRunner().invoke(compare, ["a", "b", "c"])
    assert result.exit_code == 2
    assert "give a fitted model, or two sides" in result.output
