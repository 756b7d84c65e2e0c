"""The generated reference agrees with the program, and every relative link of the documents leads somewhere."""

import re
import runpy
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PAGES = [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *sorted((_ROOT / "docs").rglob("*.md"))]


def test_command_reference_is_current() -> None:
    """docs/cli.md is what the commands' own help says today (`make docs` rewrites it)."""
    reference = runpy.run_path(str(_ROOT / "docs" / "cli_reference.py"))["reference"]
    assert (_ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
