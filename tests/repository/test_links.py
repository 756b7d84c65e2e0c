"""Every link, anchor and path that a page or a source file names leads to something that is in the repository."""

import re
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_ROOMS = "benchmarks|cluster_specs|costmodel|docs|profiler|profiles_db|simulator|tests"
# Text such as `simulator/steps/compile_plan.py`, `simulator/launch/` or `cluster_specs/devices/*.toml` in backquotes.
_PATH = re.compile(rf"`((?:{_ROOMS})/(?:[\w./-]+\.\w+|[\w./-]*/|[\w./*-]*\*[\w./*-]*))(?:::\w+)?`")
# A module, or something in it, as docstrings and pages name it: `simulator.steps.compile_plan`,
# ``costmodel.ops.op_types.Gemm``.
_MODULE = re.compile(r"`((?:cluster_specs|costmodel|profiler|profiles_db|simulator)(?:\.\w+)+)`")
_DOCS_PATH = re.compile(r"(?<![\w/.-])docs/[\w/]+\.md")


def _tracked() -> list[Path]:
    """Files of the repository that are under version control, or every file of an unpacked archive."""
    listed = subprocess.run(["git", "ls-files"], cwd=_ROOT, capture_output=True, text=True, check=False).stdout.split()
    if listed:
        return [file for name in listed if (file := _ROOT / name).is_file()]
    folders = [_ROOT / room for room in _ROOMS.split("|")]
    return [*_ROOT.glob("*.md"), *(file for folder in folders for file in folder.rglob("*") if file.is_file())]


_PAGES = sorted(file for file in _tracked() if file.suffix == ".md")
_SOURCES = sorted(file for file in _tracked() if file.suffix in {".py", ".toml"} or file.name == "Makefile")


def _name(file: Path) -> str:
    return str(file.relative_to(_ROOT))


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, spelt as GitHub spells them."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        anchors.add(f"{slug}-{found[slug]}" if found[slug] else slug)
    return anchors


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file of the repository, and its anchor a heading of that file."""
    lost = []
    for target, anchor in re.findall(
        r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)", _FENCE.sub("", page.read_text(encoding="utf-8"))
    ):
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            lost.append(f"{target}#{anchor}" if anchor else target)
    assert lost == []


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_paths_on_a_page_exist(page: Path) -> None:
    """A path that a page writes out in backquotes, from the top of the repository, is there."""
    text = page.read_text(encoding="utf-8")
    made = {"build", "out"}, set(re.findall(r"^`([\w./-]+)`:$", text, re.MULTILINE))  # by commands, by the page itself
    named = {name for name in _PATH.findall(text) if name.split("/")[0] not in made[0] and name not in made[1]}
    assert sorted(name for name in named if not any(_ROOT.glob(name.rstrip("/")))) == []


def test_pages_named_in_the_sources_exist() -> None:
    """A page of docs/ that a docstring, a hint or a help text names is there."""
    lost = {}
    for source in _SOURCES:
        # A page of another project is written after that project's name or within its address.
        text = re.sub(r"https?://\S+|[\w.-]+/[\w.-]+[, ]+docs/\S+", "", source.read_text(encoding="utf-8"))
        if missing := sorted(name for name in set(_DOCS_PATH.findall(text)) if not (_ROOT / name).exists()):
            lost[_name(source)] = missing
    assert lost == {}


def _is_module_or_in_one(dotted: str) -> bool:
    """Whether a dotted name leads to a module, or through one to a name that its text holds."""
    place = _ROOT
    parts = dotted.split(".")
    for index, part in enumerate(parts):
        if (place / part).is_dir():
            place /= part
        elif (place / f"{part}.py").is_file():
            text = (place / f"{part}.py").read_text(encoding="utf-8")
            return all(re.search(rf"\b{name}\b", text) for name in parts[index + 1 :])
        else:
            return False
    return True


def test_modules_named_in_words_exist() -> None:
    """A module that a page, a docstring or a comment names in backquotes is there, with the name it is said to hold."""
    lost = {}
    for file in (*_PAGES, *(source for source in _SOURCES if source.suffix == ".py")):
        named = set(_MODULE.findall(file.read_text(encoding="utf-8")))
        if missing := sorted(name for name in named if not _is_module_or_in_one(name)):
            lost[_name(file)] = missing
    assert lost == {}
