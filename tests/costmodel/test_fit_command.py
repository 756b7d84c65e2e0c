"""`apex fit` as a person runs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from costmodel.fit_file.artefact import load_artefact
from profiles_db.store import Store

Fit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fit(run_apex: Callable[..., Any], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Fit the small database in a folder of the test's own; tells the exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        done = run_apex("fit", "--db", store.root, *arguments)
        return done.returncode, done.stdout, done.stderr

    return run


def test_fit_writes_one_file_and_prints_held_out_error(fit: Fit, tmp_path: Path) -> None:
    """Standard output is the report, standard error the file written; the file loads."""
    code, out, err = fit()
    assert code == 0, err
    assert "gemm         bf16|aligned" in out
    assert "energy: 0 rows with joules" in out
    assert err.startswith("wrote h100-sxm.fit.parquet")
    assert load_artefact(tmp_path / "h100-sxm.fit.parquet").provenance.device == "h100-sxm"
    assert [path.name for path in tmp_path.iterdir()] == ["h100-sxm.fit.parquet"]


def test_fit_prints_json_on_request(fit: Fit, tmp_path: Path) -> None:
    """The JSON holds provenance, per-family counts and held-out rows."""
    code, out, _ = fit("--json", "--out", "model.parquet")
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


def test_constants_are_printed_and_nothing_is_written(fit: Fit, tmp_path: Path) -> None:
    """`--constants` prints TOML."""
    code, out, _ = fit("--constants")
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
    arguments: tuple[str, ...], ends_in: int, said: str, fit: Fit, tmp_path: Path
) -> None:
    """No traceback, the documented exit code, nothing written."""
    code, out, err = fit(*arguments)
    assert code == ends_in
    assert said in err
    assert "hint: " in err
    assert "Traceback" not in err + out
    assert list(tmp_path.iterdir()) == []
