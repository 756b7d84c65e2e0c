"""Every dependency and every extra is there for a line that imports it, and heavy ones load where they are used."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from cluster_specs.extras import require_extra

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster_specs", "profiles_db", "costmodel", "profiler", "simulator")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Where the name that is imported is not the name that is installed.
MODULES = {
    "scikit-learn": "sklearn",
    "nvidia-ml-py": "pynvml",
    "aiconfigurator-core": "aiconfigurator_core",
    "prometheus-client": "prometheus_client",
}
TOOLS = "dev"  # run, not imported: tests, linters, types
# Slow to load or not always there: the modules that import one of them whole are themselves imported where used.
HEAVY = {
    "bokeh",
    "jinja2",
    "llvmlite",
    "matplotlib",
    "numba",
    "pandas",
    "pynvml",
    "scipy",
    "sklearn",
    "torch",
    "triton",
    "vllm",
}
COMMANDS = (
    "simulator.cli",
    "simulator.simulate",
    "simulator.search.search",
    "simulator.streaming",
    "costmodel.fitted_costs",
)


def module_of(requirement: str) -> str:
    """Name of the module that a requirement of pyproject installs."""
    name = re.split(r"[<>=;\s\[]", requirement)[0]
    return MODULES.get(name, name)


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of the packages with its parsed text."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """Every module a file imports or looks up by its name, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)
    return found


def imported_at_once(tree: ast.Module) -> set[str]:
    """Find what loading a file imports: not what stands in functions or under TYPE_CHECKING."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Try):
            found |= imported(ast.Module(body=[node], type_ignores=[]))
    return found


def test_every_dependency_is_imported_by_a_line() -> None:
    """What is installed always is imported by the packages; what an extra installs by them or by its tool."""
    used = {name.partition(".")[0] for _, tree in sources(*PACKAGES) for name in imported(tree)}
    assert {module_of(text) for text in PROJECT["dependencies"]} <= used
    extras = {name: {module_of(text) for text in texts} for name, texts in PROJECT["optional-dependencies"].items()}
    tools = {name.partition(".")[0] for _, tree in sources("benchmarks") for name in imported(tree)}
    unused = {name: sorted(modules - used - tools) for name, modules in extras.items() if name != TOOLS}
    assert not any(unused.values()), unused


def test_what_is_imported_is_stated() -> None:
    """No line imports a package that neither a dependency nor an extra installs."""
    stated = {module_of(text) for texts in PROJECT["optional-dependencies"].values() for text in texts}
    stated |= {module_of(text) for text in PROJECT["dependencies"]}
    known = stated | {"pydantic_core", *PACKAGES, *sys.stdlib_module_names}  # pydantic brings its core
    for name, tree in sources(*PACKAGES):
        plain = ast.Module(
            body=[n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)], type_ignores=[]
        )
        unknown = {module.partition(".")[0] for module in imported(plain)} - known
        assert not unknown, f"{name} imports {unknown}"


def test_heavy_packages_load_where_they_are_used() -> None:
    """No command and no library entry point loads a plotting, table, fitting or GPU package before it needs it."""
    at_once = {name: imported_at_once(tree) for name, tree in sources(*PACKAGES)}
    heavy = {name for name, modules in at_once.items() if {module.partition(".")[0] for module in modules} & HEAVY}
    grown = -1
    while grown != len(heavy):
        grown = len(heavy)
        heavy |= {name for name, modules in at_once.items() if modules & heavy}
    entries = {*COMMANDS, *(name for name in at_once if name.endswith(".cli") or name.startswith("simulator.commands"))}
    assert not entries & heavy
    assert {"costmodel.compare.plots", "simulator.report.validation_figures"} <= heavy  # the rule sees them


def test_tables_and_solvers_are_never_loaded_with_a_module() -> None:
    """pandas, scikit-learn and scipy are imported inside the functions that use them."""
    for name, tree in sources(*PACKAGES):
        loaded = {module.partition(".")[0] for module in imported_at_once(tree)}
        assert not loaded & {"pandas", "sklearn", "scipy"}, name


def test_a_missing_package_is_one_message_that_names_its_extra() -> None:
    """The message says what needs it, the hint what to install."""
    with pytest.raises(UserError, match="drawing needs no_such_module, which is not installed") as found:
        require_extra("report", "json", "no_such_module", what="drawing")
    assert found.value.hint == "pip install 'apex-planner[report]'"


@pytest.mark.parametrize(
    ("lacking", "arguments", "message"),
    [
        ("matplotlib", ["compare", "h100-sxm", "h200-sxm", "--out", "plots"], "--out needs matplotlib"),
        ("bokeh", ["report", "found.json"], "apex report needs bokeh"),
        ("pandas", ["compare", "h100-sxm", "h200-sxm"], "apex compare of two sides needs pandas"),
        (
            "aiohttp",
            ["observe", "http://127.0.0.1:1", "--model", "m", "--max-rate", "1", "-o", "o.jsonl"],
            "apex observe needs aiohttp",
        ),
        ("scipy", ["fit", "--device", "h100-sxm", "--out", "f.parquet"], "apex fit needs scipy"),
    ],
)
def test_commands_without_an_extra_say_which(lacking: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    """A command whose package is not installed ends in one message and exit code 2."""
    code = f"import sys; sys.modules[{lacking!r}] = None\nfrom simulator.cli import main\nmain({arguments!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "hint: pip install 'apex-planner[" in done.stderr
    assert "Traceback" not in done.stderr
