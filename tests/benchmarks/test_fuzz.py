"""Two thousand fixed broken inputs over all readers: an answer or one message each, nothing else."""

import importlib.util
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.fuzz import seeds
from benchmarks.fuzz.cases import SHARES, make_case, reader_of
from benchmarks.fuzz.judge import judge, warm_up

CASES = 2000
CHUNK = 250


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


def _needs_torch(number: int) -> bool:
    return reader_of(number) == "manifest" and importlib.util.find_spec("torch") is None


@pytest.mark.parametrize("first", range(0, CASES, CHUNK))
def test_broken_inputs_end_in_an_answer_or_one_message(first: int, tmp_path: Path) -> None:
    """No traceback, no hang, no warning, at most 1 GB, a documented exit code, a message that names the file."""
    faults = []
    for number in range(first, first + CHUNK):
        if _needs_torch(number):
            continue
        case = make_case(number, tmp_path / "case")
        verdict = judge(case.arguments, names=case.names)
        if verdict.fault:
            faults.append(f"{number} ({reader_of(number)}): {verdict.fault}")
        shutil.rmtree(tmp_path / "case", ignore_errors=True)
    assert not faults


@pytest.mark.parametrize("number", [2735, 3194, 4181, 4821, 5794, 9161, 10006, 37437, 39298, 55681])
def test_numbers_that_once_had_a_fault_have_none(number: int, tmp_path: Path) -> None:
    """What the 100,000 found stays mended."""
    if _needs_torch(number):
        pytest.skip("a manifest is read by apex profile, which needs torch")
    case = make_case(number, tmp_path)
    assert judge(case.arguments, names=case.names).fault == ""


def test_any_hundred_cases_are_spread_over_the_readers() -> None:
    """Shares are kept whatever number a run starts at, and a number always makes the same files."""
    for first in (0, 1, 250, 99_900):
        assert Counter(map(reader_of, range(first, first + 100))) == SHARES


def test_a_number_always_makes_the_same_case(tmp_path: Path) -> None:
    """Files and command of a number are the same in every run, so that a fault can be looked at again."""
    for number in range(60):
        contents = []
        for _ in range(2):
            folder = tmp_path / "same"
            case = make_case(number, folder)
            contents.append((case, [(path, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()]))
            shutil.rmtree(folder, ignore_errors=True)
        assert contents[0] == contents[1]


def test_the_files_that_cases_break_are_sound(tmp_path: Path) -> None:
    """What is broken from was whole: clusters, devices, imports, measurements and the fit are taken as they are."""
    commands: list[tuple[str, ...]] = []
    for name, values in (*seeds.tomls("clusters").items(), *seeds.tomls("engines").items()):
        path = tmp_path / f"{name}.toml"
        path.write_text(seeds.toml_text(values))
        if name in seeds.tomls("clusters"):
            commands.append(("clusters", str(path)))
    for tool, (name, text) in seeds.IMPORTS.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        commands.append(("import", tool.partition(" ")[0], str(path), "--db", str(tmp_path / "imported")))
    for family, table in seeds.measurements().items():
        path = tmp_path / "db" / "h100-sxm" / family / "rows.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)
    pq.write_table(seeds.fit(), tmp_path / "fit.parquet")
    commands += [("db", "verify", "--db", str(tmp_path / "db")), ("compare", str(tmp_path / "fit.parquet"), "--json")]
    for command in commands:
        verdict = judge(command)
        assert (verdict.exit_code, verdict.fault) == (0, ""), (command, verdict.said)
