"""`apex fit` as a person runs it."""

import json
import sys
from pathlib import Path
from subprocess import run

import pytest

from costmodel.artefact import load_artefact
from profiles_db.store import Store


def apex(*arguments: str, folder: Path) -> tuple[int, str, str]:
    """Run the installed command in a folder."""
    code = "from simulator.cli import main; main()"
    done = run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_fit_writes_one_file_and_prints_held_out_error(store: Store, tmp_path: Path) -> None:
    """Standard output is the report, standard error the file written; the file loads."""
    code, out, err = apex("fit", "--db", str(store.root), folder=tmp_path)
    assert code == 0, err
    assert "gemm         bf16|aligned" in out
    assert "energy: 0 rows with joules" in out
    assert err.startswith("wrote h100-sxm.fit.parquet")
    assert load_artefact(tmp_path / "h100-sxm.fit.parquet").provenance.device == "h100-sxm"
    assert [path.name for path in tmp_path.iterdir()] == ["h100-sxm.fit.parquet"]


def test_fit_prints_json_on_request(store: Store, tmp_path: Path) -> None:
    """The JSON holds provenance, per-family counts and held-out rows."""
    code, out, _ = apex("fit", "--db", str(store.root), "--json", "--out", "model.parquet", folder=tmp_path)
    body = json.loads(out)
    assert code == 0
    assert body["schema"] == 1
    assert {report["family"] for report in body["families"]} == {
        "gemm",
        "attention",
        "moe",
        "elementwise",
        "collective",
    }
    assert body["held_out"][0].keys() >= {"median", "p90", "bias", "coverage", "question", "regime"}


def test_constants_are_printed_and_nothing_is_written(store: Store, tmp_path: Path) -> None:
    """`--constants` prints TOML."""
    code, out, _ = apex("fit", "--db", str(store.root), "--constants", folder=tmp_path)
    assert code == 0
    assert out.startswith("[analytic]\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "ends_in", "said"),
    [
        (("--device", "b200"), 2, "no measurements of device 'b200'"),
        (("--cluster", "b200-8"), 2, "the measurements are of h100-sxm"),
        (("--out", "missing/fit.parquet"), 1, "cannot be written"),
        (("--prior", "h1000"), 2, "no device with a bundled fit"),
    ],
)
def test_mistakes_end_in_one_message_with_a_hint(
    arguments: tuple[str, ...], ends_in: int, said: str, store: Store, tmp_path: Path
) -> None:
    """No traceback, the documented exit code, nothing written."""
    code, out, err = apex("fit", "--db", str(store.root), *arguments, folder=tmp_path)
    assert code == ends_in
    assert said in err
    assert "hint: " in err
    assert "Traceback" not in err + out
    assert list(tmp_path.iterdir()) == []
