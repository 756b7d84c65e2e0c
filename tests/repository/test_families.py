"""What is special about an op family stands in its file: no table or branch elsewhere names several families."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from costmodel.families.all import OP_FAMILIES
from costmodel.ops.op_types import Op
from profiles_db.schema import FAMILIES

REPOSITORY: Final = Path(__file__).parents[2]
PACKAGES: Final = ("cluster_specs", "profiles_db", "costmodel", "profiler", "simulator")

# Places that may name several families, each with the reason.
ALLOWED: Final[Mapping[str, str]] = {
    "profiles_db/verify.py": "rules of the contract itself: what no row of a family can be",
    "profiles_db/validation.py": "rules of the contract itself: phases that follow from counts",
    "profiles_db/outliers.py": "rules of the contract itself: the size along which a family's time cannot fall",
    "profiles_db/importers/aiconfigurator_tables.py": "foreign tables, by the family they become",
    "profiles_db/importers/apex_plus.py": "foreign tables, by the family they become",
    "profiles_db/importers/llmservingsim.py": "foreign tables, by the family they become",
    "costmodel/pricing/analytic_costs.py": "prices of every op without a measurement, of families nobody measures too",
    "costmodel/ops/roofline.py": "products and experts name a scheme of formats, other ops a format",
    "profiler/kernels/torch_backend.py": "which kernels run a family",
    "profiler/kernels/triton_backend.py": "which kernels run a family",
    "profiler/kernels/vllm_backend.py": "which kernels run a family",
    "profiler/kernels/vllm_cpu_backend.py": "which kernels run a family",
    "profiler/planning/expected_errors.py": "what a benchmark found for each family; others take the widest",
    "profiler/planning/grid.py": "what is measured where no manifest says it",
    "profiler/campaign/anchors.py": "what a whole step is made of",
    "simulator/engine_profiles/engine_kernels.py": "launches of an engine's kernels",
    "simulator/engine_profiles/price_factors.py": "factors of a server, attention told apart by phase",
    "simulator/memory/plan_memory.py": "what an op holds in memory while it runs",
    "simulator/model/cells/__init__.py": "names of cells of a model, two of which families share",
    "simulator/search/paired.py": "which ops make one source of error",
    "simulator/steps/op_factors.py": "which factor of a server an op takes, attention told apart by phase",
    "simulator/steps/wider_formats.py": "which narrower format an engine runs instead of which, in one table",
    "simulator/validation/parts.py": "parts of a server that a difference may sit in",
}

_OF_CLASS: Final[Mapping[str, str]] = {kind.__name__: kind.__name__.lower() for kind in Op.__args__}  # type: ignore[attr-defined]
_NAMES: Final = frozenset(_OF_CLASS.values())


def _family(node: ast.expr | ast.pattern) -> set[str]:
    """Families that an expression or a pattern names."""
    match node:
        case ast.Constant(value=str() as text):
            return {text} & _NAMES
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return {_OF_CLASS[name]} if name in _OF_CLASS else set()
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _family(left) | _family(right)
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts) | ast.MatchOr(patterns=parts):
            return set().union(*map(_family, parts))
        case ast.MatchClass(cls=kind):
            return _family(kind)
        case ast.MatchValue(value=value):
            return _family(value)
    return set()


def _tables(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Literals of several families."""
    for node in ast.walk(tree):
        match node:
            case ast.Dict(keys=keys):
                yield node.lineno, set().union(*(_family(key) for key in keys if key is not None))
            case ast.Tuple() | ast.List() | ast.Set():
                yield node.lineno, _family(node)


def _branches(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Families that one function decides by."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        named: set[str] = set()
        for node in ast.walk(function):
            match node:
                case ast.Compare(left=left, comparators=others):
                    named |= set().union(*map(_family, (left, *others)))
                case ast.Call(func=ast.Name(id="isinstance"), args=[_, kinds]):
                    named |= _family(kinds)
                case ast.match_case(pattern=pattern):
                    named |= _family(pattern)
        yield function.lineno, named


def _naming_several() -> dict[str, list[str]]:
    """Places with a table or a branch of several families, by file."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for line, families in (*_tables(tree), *_branches(tree)):
                if len(families) > 1:
                    place = f"{path.relative_to(REPOSITORY)}:{line}: {', '.join(sorted(families))}"
                    found.setdefault(str(path.relative_to(REPOSITORY)), []).append(place)
    return found


def test_families_are_told_apart_in_their_files_alone() -> None:
    """A table or a branch that names several families stands where a reason allows it, or nowhere."""
    found = _naming_several()
    strays = [place for path, places in found.items() if path not in ALLOWED for place in places]
    assert not strays, "\n".join(["ask the family's value (costmodel/families) instead:", *strays])
    assert not set(ALLOWED) - set(found), "no longer needed among the allowed places"


def test_every_measured_family_has_a_value() -> None:
    """The families of measured ops are those of the schema; whole steps are no op."""
    assert sorted(set(OP_FAMILIES) ^ (set(FAMILIES) - {"step"})) == []
    for family in OP_FAMILIES.values():
        assert family.op.__name__.lower() == family.name
