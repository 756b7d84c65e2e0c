"""Whoever follows a guide but for one file is told by a check what is missing."""

import shutil
from pathlib import Path

import pytest

from tests.repository.guides import GUIDES, LEFT_OUT, ROOT, changes, copy_repository, make, run


@pytest.mark.parametrize(
    "guide",
    [guide for guide in GUIDES if LEFT_OUT.search(guide.read_text(encoding="utf-8"))],
    ids=lambda guide: guide.stem,
)
def test_a_check_names_what_is_left_out(guide: Path, tmp_path: Path) -> None:
    """With one file's change left out and all others made, the check that the guide names fails and says the text."""
    page = guide.read_text(encoding="utf-8")
    copy = copy_repository(tmp_path)
    changed = list(changes(page))
    for step in changed:
        make(step, copy)
    for row in LEFT_OUT.finditer(page):
        missing, original = copy / row["file"], ROOT / row["file"]
        assert row["file"] in {step["file"] or step["edited"] for step in changed}
        kept = missing.read_bytes()
        if original.exists():
            shutil.copy(original, missing)
        else:
            missing.unlink()
        failed = run(f"python -m pytest -q {row['check']}", copy)
        missing.write_bytes(kept)
        said = failed.stdout + failed.stderr
        assert failed.returncode == 1, f"without {row['file']}, {row['check']} must fail:\n{said[-3000:]}"
        assert row["said"] in said, said[-3000:]
