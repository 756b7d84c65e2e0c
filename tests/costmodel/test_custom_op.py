"""Declarations of a person's own ops, and the modules they stand in: what cannot be meant is said by name."""

from pathlib import Path
from typing import Any

import pytest

from cluster_specs.errors import UserError
from costmodel.extension.custom_op import Counts, CustomOp, CustomScan
from costmodel.extension.load import load_module, load_ops

_SOUND = {
    "name": "lab.mix",
    "sizes": ("width",),
    "amount_of": "tokens",
    "counts": lambda dtype, *, width: Counts(unit_flop=2 * width, unit_bytes=4 * width),  # noqa: ARG005
    "kernel": "kernels:run",
    "reference": "kernels:plain",
    "operands": "kernels:operands",
}

_FILE = """
from costmodel.extension.custom_op import Counts, CustomOp

MIX = CustomOp(
    name="{name}",
    sizes=("width",),
    amount_of="tokens",
    counts=lambda dtype, *, width: Counts(unit_flop=width, unit_bytes=width),
    kernel="kernels:run",
    reference="kernels:plain",
    operands="kernels:operands",
)
"""


def _declared(**changes: Any) -> CustomOp:
    return CustomOp(**(_SOUND | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "Mix"}, "a name is lower-case words with dots between"),
        ({"name": "lab|mix"}, "a name is lower-case words with dots between"),
        ({"name": "rmsnorm"}, "is an op that Apex has already"),
        ({"name": "all_reduce"}, "is an op that Apex has already"),
        ({"name": "gemm"}, "is an op that Apex has already"),
        ({"sizes": ()}, "has 0 sizes, must have 1 to 8"),
        ({"sizes": ("width", "width")}, "each named once"),
        ({"sizes": ("amount",)}, "is no name of a size"),
        ({"amount_of": "rows"}, "must be one of tokens, sequences"),
        ({"kernel": "kernels.run"}, "kernel is 'kernels.run', must be module:function"),
        ({"reference": "kernels:run"}, "kernel and reference are both kernels:run"),
        ({"tolerance": {"bf16": 0}}, "must be above 0 and below 1"),
        ({"tolerance": {"bf17": 0.1}}, "tolerance of 'bf17'"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(changes: dict[str, Any], said: str) -> None:
    """Each mistake is one message that names the op and the value."""
    with pytest.raises(UserError, match=r"^op ") as caught:
        _declared(**changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "sizes", "said"),
    [
        (_SOUND["counts"], {}, "called with sizes , has width"),
        (_SOUND["counts"], {"width": 8, "depth": 2}, "called with sizes width, depth, has width"),
        (_SOUND["counts"], {"width": 0}, "width is 0, must be a whole number > 0"),
        (lambda dtype, *, width: width, {"width": 8}, "counts returns 8, must be Counts"),  # noqa: ARG005
        (lambda dtype, *, width: Counts(unit_flop=-1, unit_bytes=1), {"width": 8}, "unit_flop -1"),  # noqa: ARG005
        (lambda dtype, *, width: Counts(unit_flop=0, unit_bytes=0), {"width": 8}, "no work"),  # noqa: ARG005
    ],
)
def test_a_call_without_sizes_or_work_is_refused(counts: Any, sizes: dict[str, int], said: str) -> None:
    """Sizes are exactly those declared, and counts are numbers a device could work off."""
    with pytest.raises(UserError) as caught:
        _declared(counts=counts).of(4, dtype="bf16", **sizes)
    assert said in str(caught.value)


def test_sizes_have_one_order_however_they_are_given() -> None:
    """Two calls of the same sizes are equal, so that they are priced and measured once."""
    op = _declared(sizes=("a", "b"), counts=lambda dtype, *, a, b: Counts(unit_flop=a, unit_bytes=b))  # noqa: ARG005
    assert op.of(4, dtype="bf16", a=1, b=2) == op.of(4, dtype="bf16", b=2, a=1)


def test_a_scan_needs_an_op_for_prompts_and_one_for_steps() -> None:
    """Ops that count something else than they will be given are refused; drafts count as so many sequences."""
    step = _declared(name="lab.step", amount_of="sequences")
    scan = CustomScan(prompt_op=_declared(), step_op=step, sizes={"width": 8}, dtype="bf16")
    assert scan.prompt(100) == _declared().of(100, dtype="bf16", width=8)
    assert scan.steps(6, 3) == step.of(18, dtype="bf16", width=8)
    with pytest.raises(UserError, match="counts tokens, and a scan needs one that counts sequences"):
        CustomScan(prompt_op=_declared(), step_op=_declared(), sizes={"width": 8}, dtype="bf16")


def _written(folder: Path, name: str, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_ops_of_a_file_are_the_values_at_its_top_level(tmp_path: Path) -> None:
    """Nothing is registered: what a module declares is what it holds."""
    path = _written(tmp_path, "mine.py", _FILE.format(name="lab.mix"))
    assert list(load_module(path).ops) == ["lab.mix"]


def test_a_module_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension may be a module that Python can import, as well as a file."""
    _written(tmp_path / "my_own_ops", "__init__.py", "")
    _written(tmp_path / "my_own_ops", "mix.py", _FILE.format(name="lab.mix"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(load_module("my_own_ops.mix").ops) == ["lab.mix"]


@pytest.mark.parametrize(
    ("contents", "named", "said"),
    [
        (["x = 1"], ["0.py"], "declares no op to measure"),
        ([_FILE.format(name="lab.mix")], ["0.py", "0.py"], "is given twice"),
        ([_FILE.format(name="lab.mix")] * 2, ["0.py", "1.py"], "op lab.mix is declared by"),
        (
            [_FILE.format(name="lab.mix") + _FILE.format(name="lab.mix").replace("MIX", "ALSO")],
            ["0.py"],
            "two ops named",
        ),
        ([_FILE.format(name="Lab")], ["0.py"], "a name is lower-case words"),
        (["import no_such_module_at_all"], ["0.py"], "ModuleNotFoundError"),
        (["x = 1"], ["1.py"], "is not a Python file"),
        (["x = 1"], ["no-module"], "is not a Python file"),
        (["x = 1"], ["no_such_module_at_all"], "ModuleNotFoundError"),
    ],
)
def test_modules_that_bring_no_ops_are_named(
    tmp_path: Path, contents: list[str], named: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with an extension is one message that names it."""
    for index, content in enumerate(contents):
        _written(tmp_path, f"{index}.py", content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        load_ops(named)
    assert named[-1] in str(caught.value)
