"""Every page can be found: from the index, from the map, or in the list of decisions."""

import re
from pathlib import Path

import pytest

from costmodel.cost_model import Source

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
# Written by `make accuracy`, `make calibration`, `make holdout`, `make bench`, `make gpu-report` and `make witness`.
_GENERATED = {
    "accuracy.md",
    "accuracy_ops.md",
    "calibration.md",
    "holdout.md",
    "measured_gpu.md",
    "performance.md",
    "witness.md",
}


def _linked(page: Path) -> set[Path]:
    """Return the files that a page links to."""
    found = re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    return {(page.parent / target).resolve() for target in found}


@pytest.mark.parametrize("layer", ["guides", "concepts", "reference"])
def test_the_index_links_every_page(layer: str) -> None:
    """docs/README.md links each page of a layer, and each generated result."""
    pages = {page.resolve() for page in (_DOCS / layer).glob("*.md")} | {
        (_DOCS / name).resolve() for name in _GENERATED
    }
    assert sorted(page.name for page in pages - _linked(_DOCS / "README.md")) == []


def test_a_page_stands_in_a_layer() -> None:
    """Beside the layers docs/ holds its index, the list of limits and the generated results alone."""
    assert sorted({page.name for page in _DOCS.glob("*.md")} - _GENERATED - {"README.md", "limits.md"}) == []


def test_the_map_links_every_guide_for_adding_something() -> None:
    """ARCHITECTURE.md answers "how do I add ..." with every guide there is for it."""
    guides = {page.resolve() for page in (_DOCS / "guides").glob("add_*.md")}
    assert sorted(page.name for page in guides - _linked(_ROOT / "ARCHITECTURE.md")) == []


def test_the_list_of_decisions_is_complete() -> None:
    """docs/decisions/README.md lists every decision by number and title, and a page's number is that of its file."""
    listed = (_DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    missing = []
    for page in sorted((_DOCS / "decisions").glob("0*.md")):
        number, _, title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(". ")
        line = f"- [{int(page.name[:4])}]({page.name}) {title}"
        if number != str(int(page.name[:4])) or line not in listed.splitlines():
            missing.append(line)
    assert missing == []


def test_the_page_on_prices_names_every_source_in_order() -> None:
    """docs/concepts/where_a_price_comes_from.md lists the sources of a price, best first."""
    page = (_DOCS / "concepts" / "where_a_price_comes_from.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \d \| `(\w+)`", page, re.MULTILINE) == [source.name for source in Source]
