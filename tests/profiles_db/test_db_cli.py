"""``apex db`` and ``apex import`` as a user types them: data on stdout, talk on stderr, exit codes."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from profiles_db.store import Store
from simulator.cli import main

GemmRow = Callable[..., dict[str, Any]]

# Runs a command line in a fresh interpreter and prints which heavy packages it imported.
IMPORTS = """
import sys
from simulator.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(sorted({"pyarrow", "pandas", "numpy", "torch", "sklearn"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def filled(store: Store, gemm_row: GemmRow) -> Store:
    """Give a store of three GEMM points, one of them failed and one repeated."""
    rows = [gemm_row(m=1), gemm_row(m=2), gemm_row(m=2, latency_s=3e-5), gemm_row(m=3, status="oom", latency_s=None)]
    store.append("gemm", rows, "a")
    return store


@pytest.fixture
def apex(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; gives exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, captured.out, captured.err

    return run


Apex = Callable[..., tuple[int, str, str]]


def test_ls_counts_rows_by_status(apex: Apex, filled: Store) -> None:
    """Every group is listed with its rows, failed points included."""
    code, out, _ = apex("db", "ls", "--db", filled.root, "--json")
    assert code == 0
    counts = {(row["family"], row["device"], row["status"]): row["rows"] for row in json.loads(out)}
    assert counts == {("gemm", "h100-sxm", "ok"): 3, ("gemm", "h100-sxm", "oom"): 1}


def test_show_prints_what_varies(apex: Apex, filled: Store) -> None:
    """By default the columns that tell the rows apart are shown; the limit is said on stderr."""
    code, out, err = apex("db", "show", "gemm", "--db", filled.root, "--limit", 2)
    assert code == 0
    assert out.splitlines()[0].split() == ["m", "latency_s"]
    assert len(out.splitlines()) == 3
    assert "2 of 3 rows" in err


def test_show_filters(apex: Apex, filled: Store) -> None:
    """``--where`` compares typed values and repeats to mean any of them."""
    arguments = ("db", "show", "gemm", "--db", filled.root, "--json", "--columns", "m,latency_s")
    _, out, _ = apex(*arguments, "--where", "m=2", "--where", "latency_s=3e-5")
    assert json.loads(out) == [{"m": 2, "latency_s": 3e-5}]
    _, out, _ = apex(*arguments, "--where", "m=1", "--where", "m=3", "--all-statuses")
    assert [row["m"] for row in json.loads(out)] == [1, 3]


def test_show_says_when_nothing_matches(apex: Apex, filled: Store) -> None:
    """An empty answer is said, so that a mistyped device is not taken for missing measurements."""
    code, out, err = apex("db", "show", "gemm", "--db", filled.root, "--device", "h100")
    assert (code, out) == (0, "")
    assert "no such row of gemm" in err


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_export_writes_every_form(form: str, apex: Apex, filled: Store, tmp_path: Path) -> None:
    """The file holds all rows of every status in the form its suffix names."""
    output = tmp_path / f"out.{form}"
    code, out, err = apex("db", "export", "gemm", output, "--db", filled.root)
    assert (code, out) == (0, "")
    assert "4 rows" in err
    if form == "csv":
        sizes = [int(row["m"]) for row in csv.DictReader(output.read_text().splitlines())]
    elif form == "json":
        sizes = [row["m"] for row in json.loads(output.read_text())]
    else:
        sizes = pq.read_table(output)["m"].to_pylist()
    assert sizes == [1, 2, 2, 3]


def test_export_can_fold_repeats(apex: Apex, filled: Store, tmp_path: Path) -> None:
    """``--median`` writes one row per point with the number of its repeats."""
    apex("db", "export", "gemm", tmp_path / "out.json", "--db", filled.root, "--median")
    rows = json.loads((tmp_path / "out.json").read_text())
    assert {row["m"]: row["repeats"] for row in rows} == {1: 1, 2: 2, 3: 1}


def test_merge_and_compact(apex: Apex, filled: Store, tmp_path: Path) -> None:
    """Another database's rows are copied, and the result folded into one file."""
    target = tmp_path / "target"
    code, out, _ = apex("db", "merge", filled.root, "--db", target, "--json")
    assert (code, json.loads(out)[0]["copied"]) == (0, 4)
    filled.append("gemm", [{**filled.read("gemm").to_pylist()[0], "m": 9}], "a")
    apex("db", "merge", filled.root, "--db", target, "--compact")
    assert len(list(target.rglob("*.parquet"))) == 1


def test_verify_exit_code(apex: Apex, filled: Store) -> None:
    """Nothing serious: 0. A damaged file: 1, with the file on stdout."""
    code, out, err = apex("db", "verify", "--db", filled.root)
    assert code == 0
    assert "repeats" in out
    assert "0 of them serious" in err
    path = next(iter(filled.iter_files())).path
    path.write_bytes(path.read_bytes()[:60])
    code, out, _ = apex("db", "verify", "--db", filled.root)
    assert code == 1
    assert path.name in out


def test_import_prints_counts_and_reasons(apex: Apex, tmp_path: Path) -> None:
    """What was kept is on stdout, what was dropped and why on stderr."""
    path = tmp_path / "gemm_0.csv"
    path.write_text("gpu,dtype,m,k,n,time(us)\nH100-SXM-80GB,half,8,8,8,3\nH100-SXM-80GB,half,8,8,9,0\n")
    code, out, err = apex("import", "apex-plus", path, "--db", tmp_path / "db", "--json")
    (count,) = json.loads(out)
    assert (code, count["rows_in"], count["kept"]) == (0, 2, 1)
    assert "dropped 1 rows: latency zero or negative" in err
    assert "kept 1 of 2 rows" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["db", "ls", "--db", "{tmp}/none"], "no such folder"),
        (["db", "show", "gem", "--db", "{db}"], "unknown op family 'gem'"),
        (["db", "ls", "--family", "gem", "--db", "{db}"], "unknown op family 'gem'"),
        (["db", "show", "gemm", "--db", "{db}", "--where", "m"], "must be COLUMN=VALUE"),
        (["db", "show", "gemm", "--db", "{db}", "--where", "foo=1"], "gemm has no column 'foo'"),
        (["db", "show", "gemm", "--db", "{db}", "--columns", "m,foo"], "hint: columns: m, n, k"),
        (["db", "show", "gemm", "--db", "{db}", "--where", "m=many"], "'many' is not a value of m"),
        (["db", "show", "gemm", "--db", "{db}", "--columns", "speed"], "column speed is not part"),
        (["db", "export", "gemm", "{tmp}/out.xlsx", "--db", "{db}"], "cannot export as 'xlsx'"),
        (["import", "aiconfigurator", "--system", "tpu", "--db", "{db}"], "unknown system 'tpu'"),
        (["import", "vidur", "{db}", "--db", "{tmp}/other"], "no CSV files"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    arguments: list[str], words: str, apex: Apex, filled: Store, tmp_path: Path
) -> None:
    """A user's mistake is one sentence on stderr, nothing on stdout."""
    if "aiconfigurator" in arguments:
        pytest.importorskip("aiconfigurator_core", reason="extra import-aic is not installed")
    filled_in = [text.format(db=filled.root, tmp=tmp_path) for text in arguments]
    code, out, err = apex(*filled_in)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("arguments", [["db", "--help"], ["import", "--help"], ["import", "aiconfigurator", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Help pages cost no Arrow."""
    ran = subprocess.run([sys.executable, "-c", IMPORTS, *arguments], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("Usage:")
    assert ran.stderr.strip() == "[]"


def test_the_installed_command(filled: Store) -> None:
    """The console script reads a database in a process of its own."""
    script = Path(sys.executable).with_name("apex")
    ran = subprocess.run(
        [script, "db", "ls", "--db", filled.root, "--json"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0
    assert sum(row["rows"] for row in json.loads(ran.stdout)) == 4
