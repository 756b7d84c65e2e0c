"""A person's own op from its kernel to a search: the guide's mixer in real processes, and kernels that are wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="measuring needs torch")

from cluster_specs.errors import UserError  # noqa: E402
from profiler.backend import Prepared  # noqa: E402
from profiler.kernels.buffers import Buffers  # noqa: E402
from profiler.kernels.custom_backend import CustomBackend  # noqa: E402
from profiler.kernels.custom_check import check_kernels, refuse_undeclared  # noqa: E402
from profiler.point import OpShape  # noqa: E402
from profiles_db.store import open_store  # noqa: E402
from tests.repository.guides import ROOT, changes  # noqa: E402

_APEX = [sys.executable, "-m", "simulator.cli"]
_GUIDE = ROOT / "docs" / "guides" / "add_a_custom_op.md"
_CPU = torch.device("cpu")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Write the guide's three files, and a manifest of a few of its shapes."""
    for step in changes(_GUIDE.read_text(encoding="utf-8")):
        path = tmp_path / step["file"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(step["content"], encoding="utf-8")
    columns = ["op", "sizes", "amount_of", "amount", "unit_flop", "call_bytes", "unit_bytes", "dtype"]
    rows: list[list[object]] = []
    for inner in (128, 256):
        sizes, flop, moved = f"inner={inner} state=16", 7.0 * inner * 16, 2.0 * (3 * inner + 32)
        for amount in (1, 2, 4, 8, 16, 64):
            row = [amount, flop, 12.0 * inner * 16, moved, "bf16"]
            rows.append(["lab.selective_scan", sizes, "tokens", *row])
            row = [amount, flop, 4.0 * inner * 16, moved + 8.0 * inner * 16, "bf16"]
            rows.append(["lab.selective_step", sizes, "sequences", *row])
    manifest = {"apex_shape_manifest": 1, "families": {"custom": {"columns": columns, "rows": rows}}}
    (tmp_path / "shapes.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


def _run(folder: Path, *arguments: str, program: list[str] = _APEX) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def _profile(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = ["--device", "cpu", "--manifest", "shapes.json", "--db", "measured", "--exhaustive"]
    return _run(folder, "profile", *options, "--extension", "mamba.py", *more)


def test_the_mixer_is_measured_fitted_compared_and_searched(example: Path) -> None:
    """Two ranks measure both kernels, the fit prices them, and a search runs without torch or the kernels."""
    done = _profile(example, "--nproc-per-node", "2")
    assert done.returncode == 0, done.stderr
    table = open_store(example / "measured", bundled=None).read("custom")
    assert table.num_rows == 24
    kernels = {"mamba_kernels:scan_prompt", "mamba_kernels:scan_steps"}
    assert set(table["backend"].to_pylist()) == kernels
    assert set(table["sizes"].to_pylist()) == {"inner=128 state=16", "inner=256 state=16"}

    (example / "mamba_kernels.py").write_text("raise RuntimeError('the kernels are not for here')", encoding="utf-8")
    for command in ("db verify --db measured", "fit --db measured --device cpu --out own.fit.parquet"):
        done = _run(example, *command.split())
        assert done.returncode == 0, done.stderr
    done = _run(example, "compare", "own.fit.parquet", "--out", "plots")
    assert done.returncode == 0, done.stderr
    assert "inner=256 state=16" in done.stdout or "inner=128 state=16" in done.stdout
    search = ["search", "--model", "toy/config.json", "--cluster", "cpu-2", "--trace", "chat-synthetic", "--limit", "3"]
    search += ["--max-model-len", "2048", "--costs", "own.fit.parquet", "--allow-unsupported", "--json"]
    refused = _run(example, *search)
    assert refused.returncode == 2
    assert "--extension" in refused.stderr
    found = _run(example, *search, "--extension", "mamba.py")
    assert found.returncode == 0, found.stderr
    said = re.search(r"fit of cpu \(24 measured\).*", found.stdout)
    assert said is not None
    assert "custom analytic" not in said[0]
    busy = json.dumps(json.loads(found.stdout))
    assert "lab.selective_scan" in busy
    assert "lab.selective_step" in busy
    code = "import sys; from simulator.model.extension import load_extension; load_extension('mamba.py')"
    code += "; assert not {'torch', 'mamba_kernels'} & set(sys.modules)"
    done = _run(example, "-c", code, program=[sys.executable])
    assert done.returncode == 0, done.stderr


def test_a_kernel_that_disagrees_stops_the_run_before_a_row_is_stored(example: Path) -> None:
    """One sentence says op, sizes, amount, format, difference and limit, and the folder holds no measurement."""
    kernels = example / "mamba_kernels.py"
    text = kernels.read_text(encoding="utf-8")
    right = 'torch.einsum("nis,ns->ni", carried, q) + skip * xs'
    assert text.count(right) == 1
    kernels.write_text(text.replace(right, right.replace("+ skip", "- skip")), encoding="utf-8")
    done = _profile(example, "--nproc-per-node", "2")
    assert done.returncode == 2
    pattern = (
        r"error: op lab\.selective_step with inner=128 state=16, 1 sequences in bf16: its result differs from the "
        r"reference by up to [\d.]+, where its largest value is [\d.]+; the limit is 0.03 of that\n"
    )
    assert len(re.findall(pattern, done.stderr)) == 1
    assert not list((example / "measured").glob("**/*.parquet"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "asks for op lab.selective_scan, which needs an extension"),
        (["--extension", "mamba.py", "--extension", "./mamba.py"], "is given twice"),
        (["--extension", "toy"], "is not a Python file"),
        (["--extension", "mamba_kernels.py"], "declares no op to measure"),
    ],
)
def test_extensions_that_a_manifest_cannot_be_measured_with(example: Path, arguments: list[str], said: str) -> None:
    """Each ends the command with exit code 2 and its name."""
    done = _run(example, "profile", "--device", "cpu", "--manifest", "shapes.json", "--dry-run", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_an_extension_needs_a_manifest(example: Path) -> None:
    """The general grid knows no sizes of a person's own op."""
    done = _run(example, "profile", "--device", "cpu", "--extension", "mamba.py", "--dry-run")
    assert done.returncode == 2
    assert "measured at the sizes of a model" in done.stderr


_DECLARED = """
from costmodel.extension.custom_op import Counts, CustomOp

MIX = CustomOp(
    name="lab.mix",
    sizes=("width",),
    amount_of="tokens",
    counts=lambda dtype, *, width: Counts(unit_flop=width, unit_bytes=width),
    kernel="{module}:run",
    reference="{module}:plain",
    operands="{module}:operands",
    cold=("kept",),
)
"""
_KERNELS = """
import torch

def operands(amount, dtype, device, *, width):
    return {"x": torch.randn(amount, width, device=device).to(dtype), "kept": torch.zeros(width, device=device)}

def plain(x, kept):
    kept += x.float().sum(0)
    return x * 2

run_calls = 0

"""


def _shape(amount: int = 4, **changes: Any) -> OpShape:
    columns = {"op": "lab.mix", "sizes": "width=32", "amount_of": "tokens", "amount": amount}
    counts = {"unit_flop": 32.0, "call_bytes": 0.0, "unit_bytes": 32.0}
    return OpShape.of("custom", **{"dtype": "fp32", **columns, **counts, **changes})


def _backend(folder: Path, kernels: str, name: str) -> CustomBackend:
    (folder / f"{name}.py").write_text(_KERNELS + kernels, encoding="utf-8")
    declared = folder / f"declared_{name}.py"
    declared.write_text(_DECLARED.format(module=name), encoding="utf-8")
    return CustomBackend.load([str(declared)])


@pytest.mark.parametrize(
    ("name", "kernel", "said"),
    [
        (
            "values",
            "def run(x, kept):\n    kept += x.sum(0)\n    return x * 2.1",
            "its result differs from the reference",
        ),
        ("state", "def run(x, kept):\n    return x * 2", "operand kept after the call differs from the reference"),
        (
            "infinite",
            "def run(x, kept):\n    kept += x.sum(0)\n    return x / 0",
            "differs from the reference by up to inf",
        ),
        (
            "shape",
            "def run(x, kept):\n    kept += x.sum(0)\n    return x[:1] * 2",
            "has shape (1, 32), by the reference (4,",
        ),
        ("nothing", "def run(x, kept):\n    kept += x.sum(0)", "kernel returns 0 tensors, its reference 1"),
        ("failing", "def run(x, kept):\n    raise RuntimeError('bad stride')", "RuntimeError: bad stride"),
        ("argument", "def run(x):\n    return x * 2", "TypeError"),
    ],
)
def test_a_kernel_that_does_not_do_what_its_reference_does(tmp_path: Path, name: str, kernel: str, said: str) -> None:
    """Results, shapes and operands that are changed in place all count, and the call is named."""
    backend = _backend(tmp_path, kernel, f"disagreeing_{name}")
    with pytest.raises(UserError) as caught:
        check_kernels([_shape()], backend, _CPU, seed=0)
    assert str(caught.value).startswith("op lab.mix with width=32, 4 tokens in fp32: ")
    assert said in str(caught.value)


def test_the_smallest_and_a_large_amount_are_checked(tmp_path: Path) -> None:
    """A kernel that is wrong beyond a tile of 100 tokens is found, and one at sizes it says it cannot run is let be."""
    wrong = "def run(x, kept):\n    kept += x.sum(0)\n    return x * (2 if len(x) < 100 else 3)"
    shapes = [_shape(amount) for amount in (1, 50, 200, 100_000)]
    with pytest.raises(UserError, match="200 tokens"):
        check_kernels(shapes, _backend(tmp_path, wrong, "wrong_when_large"), _CPU, seed=0)
    check_kernels(shapes[:2], _backend(tmp_path, wrong, "right_when_small"), _CPU, seed=0)
    picky = "from profiler.backend import Unsupported\n\ndef run(x, kept):\n    raise Unsupported('no tiles of so few')"
    check_kernels(shapes, _backend(tmp_path, picky, "picky"), _CPU, seed=0)


@pytest.mark.parametrize(
    ("name", "kernels", "said"),
    [
        ("gone", "", "gone_kernels.py has no function run"),
        ("broken", "run = 1 / 0", "ZeroDivisionError"),
        (
            "listed",
            "def operands(*a, **b):\n    return []\n\ndef run(**a):\n    return 1",
            "returned no dict of tensors",
        ),
        (
            "bare",
            "def operands(*a, **b):\n    return {'x': torch.zeros(1)}\n\ndef run(**a):\n    return 1",
            "returned without kept, which is cold",
        ),
    ],
)
def test_functions_that_are_not_what_was_declared(tmp_path: Path, name: str, kernels: str, said: str) -> None:
    """An import string that leads nowhere and operands that are none name the op."""
    with pytest.raises(UserError, match=r"^op lab\.mix") as caught:
        check_kernels([_shape()], _backend(tmp_path, kernels, f"{name}_kernels"), _CPU, seed=0)
    assert said in str(caught.value)


def test_a_manifest_that_counts_otherwise_is_refused(tmp_path: Path) -> None:
    """Shapes are those that the extension declares: another count of their work, or no amount, is said with both."""
    kernel = "def run(x, kept):\n    kept += x.sum(0)\n    return x * 2"
    backend = _backend(tmp_path, kernel, "counted")
    refuse_undeclared([_shape()], backend, "shapes.json")
    with pytest.raises(UserError, match=r"unit_flop is 31.0 in the manifest and 32.0 by its extension"):
        refuse_undeclared([_shape(unit_flop=31.0)], backend, "shapes.json")
    with pytest.raises(UserError, match="amount is 0 in the manifest"):
        refuse_undeclared([_shape(0)], backend, "shapes.json")
    with pytest.raises(UserError, match=r"called with sizes depth, has width"):
        refuse_undeclared([_shape(sizes="depth=32")], backend, "shapes.json")
    with pytest.raises(UserError, match=r"none of its ops \(lab.mix\) is to be measured"):
        refuse_undeclared([], backend, "shapes.json")


def test_cold_operands_rotate_over_more_than_the_cache_and_hot_ones_stay(tmp_path: Path) -> None:
    """Each launch of a cold point works on a copy of the state of its own, on the same inputs."""
    kernel = "seen = []\n\ndef run(x, kept):\n    seen.append((x.data_ptr(), kept.data_ptr()))"
    backend = _backend(tmp_path, kernel, "rotating_kernels")
    op, buffers = _shape(), Buffers(_CPU, cold_bytes=10 * 128, seed=0)
    for is_cold, copies in ((True, 10), (False, 1)):
        buffers.begin(is_cold=is_cold)
        (label,) = backend.kernels_for(op)
        prepared: Prepared = backend.prepare(op, label, buffers)
        for index in range(2 * prepared.copies):
            prepared.launch(index)
        seen = sys.modules["rotating_kernels"].seen
        assert prepared.copies == copies
        assert len({x for x, _ in seen}) == 1
        assert len({kept for _, kept in seen}) == copies
        assert len(seen) == 2 * copies
        seen.clear()
