"""The guides are true: followed to the letter in a copy of the repository, they work."""

import re
from pathlib import Path

import pytest

from tests.repository.guides import GUIDES, STEP, copy_repository, make, run


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_works_to_the_letter(guide: Path, tmp_path: Path) -> None:
    """Every file of the guide is written, every edit fits, and every command succeeds, in the order of the page."""
    copy = copy_repository(tmp_path)
    steps = list(STEP.finditer(guide.read_text(encoding="utf-8")))
    assert any(step["commands"] for step in steps), "a guide ends in a command that shows it done"
    for step in steps:
        if step["commands"] is None:
            make(step, copy)
            continue
        for command in re.findall(r"^\$ (.*(?:\\\n.*)*)$", step["commands"], re.MULTILINE):
            done = run(command, copy)
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
