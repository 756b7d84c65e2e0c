"""A custom cell is one file: the documented example, run as documented."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from costmodel.ops.op_types import Gemm
from simulator.model.architectures import architecture
from simulator.model.cell import kind_of, register_cell
from simulator.model.cells.mlp import Mlp
from simulator.model.extension import load_extension, load_extensions, refuse_unused
from simulator.model.families.gpt_oss import read_gpt_oss
from simulator.model.load_model import load_model
from simulator.plan.plan import Plan

_PAGE = Path(__file__).parents[2] / "docs" / "guides" / "add_a_model.md"

_CONFIG = {
    "model_type": "toy_retnet",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
}


def _documented(folder: Path, kind: str = "retention") -> tuple[Path, Path]:
    """Write the page's example and a config for it; its names are known to this process once, hence ``kind``."""
    text = _PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    config = folder / "toy" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(_CONFIG | {"model_type": f"toy_{kind}"}), encoding="utf-8")
    file = folder / "retention.py"
    renamed = text.replace('register_cell("retention")', f'register_cell("{kind}")')
    file.write_text(renamed.replace('"toy_retnet"', f'"toy_{kind}"'), encoding="utf-8")
    return file, config


def test_the_documented_file_adds_a_cell_and_an_architecture(tmp_path: Path) -> None:
    """Loading the page's one file is enough to read a config, count it, shard it and price it."""
    file, config = _documented(tmp_path)
    load_extension(file)
    model = load_model(config)

    (block,) = model.unique_blocks
    assert [kind_of(cell) for cell in block.cells] == ["retention", "mlp"]
    per_layer = 4 * 512 * 512 + 3 * 512 * 1024 + 2 * 512
    assert model.parameters() == 3 * per_layer + 2 * 1000 * 512 + 512
    assert model.kv_bytes_per_token() == 0
    flop = sum(float(op.flop()) for op in block.token_ops(Plan(tp=4), 32) if isinstance(op, Gemm))
    assert 4 * flop == 2 * 32 * (per_layer - 2 * 512)
    assert model.refusal(Plan(tp=16)) == "tp is 16, must divide the 8 heads"


def test_a_search_over_a_custom_model(tmp_path: Path) -> None:
    """The command line searches plans of a model whose cell is the user's own, once told that no engine serves it."""
    file, config = _documented(tmp_path)
    command = [sys.executable, "-m", "simulator.cli", "search", "--model", str(config), "--extension", str(file)]
    command += ["--cluster", "l40s-2", "--trace", "chat-synthetic", "--limit", "20", "--json"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 3
    assert "--allow-unsupported" in refused.stdout
    found = subprocess.run([*command, "--allow-unsupported"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    plans = json.loads(found.stdout)["plans"]
    assert {plan["plan"] for plan in plans} == {"dp2", "tp2", "pp2"}
    assert all(plan["metrics"]["finished"] == 20 for plan in plans)


def test_plans_of_a_custom_model_are_kept(tmp_path: Path) -> None:
    """With --state an extension counts by what its file says, named by path or as a module; a change is refused."""
    file, config = _documented(tmp_path)
    command = [sys.executable, "-m", "simulator.cli", "search", "--model", str(config), "--cluster", "l40s-2"]
    command += ["--trace", "chat-synthetic", "--limit", "20", "--allow-unsupported", "--state", "judged"]

    def searched(extension: str) -> subprocess.CompletedProcess[str]:
        line = [*command, "--extension", extension]
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    assert searched(file.name).returncode == 0
    again = searched(file.stem)
    assert again.returncode == 0, again.stderr
    assert "3 plans judged before" in again.stderr
    file.write_text(file.read_text() + "\n")
    changed = searched(file.stem)
    assert changed.returncode == 2
    assert "judged: was begun with another --extension" in changed.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [("raise RuntimeError('boom')", "RuntimeError: boom"), ("def (", "SyntaxError"), (None, "is not a Python file")],
)
def test_a_broken_extension_is_the_users_mistake(tmp_path: Path, content: str | None, said: str) -> None:
    """Whatever goes wrong in a person's file is one message naming it."""
    file = tmp_path / "broken.py"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said) as caught:
        load_extension(file)
    assert str(file) in str(caught.value)


def test_a_module_that_registers_nothing_is_refused(tmp_path: Path) -> None:
    """A file of classes that no decorator made known could change no model; importing Apex's own is no registration."""
    file = tmp_path / "idle.py"
    file.write_text("from simulator.model.cells.mlp import Mlp\n\nclass Mixer:\n    pass\n", encoding="utf-8")
    with pytest.raises(UserError, match="registers neither an architecture nor a cell"):
        load_extension(file)


def test_an_extension_must_be_of_use(tmp_path: Path) -> None:
    """One that the model has nothing of, or that is given twice, could not act and is refused."""
    file, config = _documented(tmp_path, "useful")
    (loaded,) = load_extensions([file])
    refuse_unused([loaded], load_model(config))
    refuse_unused([loaded], load_model("tiny-llama"), load_model(config))
    with pytest.raises(UserError, match=r"nothing of it is in tiny-llama"):
        refuse_unused([loaded], load_model("tiny-llama"))
    with pytest.raises(UserError, match="is given twice"):
        load_extensions([file, tmp_path / "toy" / ".." / "retention.py"])


def test_a_file_may_be_loaded_again_and_another_of_its_name_may_not(tmp_path: Path) -> None:
    """What a file registered it may register anew; a second file with a cell of the same kind is refused."""
    first, _ = _documented(tmp_path, "held")
    assert load_extension(first).brought
    assert load_extension(first).brought
    second = tmp_path / "toy" / "retention.py"
    second.write_text(first.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match="cell kind 'held' is already registered by Retention"):
        load_extension(second)


@pytest.mark.parametrize("command", ["models", "shapes"])
def test_commands_refuse_an_extension_that_cannot_act(tmp_path: Path, command: str) -> None:
    """`models` without a name and a manifest of other models have no use for it."""
    file, _ = _documented(tmp_path)
    out = tmp_path / "out"
    options = [] if command == "models" else ["--model", "tiny-llama", "--cluster", "cpu-2", "-o", str(out)]
    arguments = [sys.executable, "-m", "simulator.cli", command, *options, "--extension", str(file)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--extension" in done.stderr
    assert not out.exists()


def test_names_cannot_be_taken_twice() -> None:
    """A second cell or reader under a known name is refused, not silently preferred, whatever its class is called."""
    with pytest.raises(ValueError, match="already registered by Mlp"):
        register_cell("mlp")(type("Other", (Mlp,), {}))
    with pytest.raises(ValueError, match="already registered by Mlp"):
        register_cell("mlp")(type("Mlp", (Mlp,), {"__module__": "elsewhere"}))
    with pytest.raises(ValueError, match="already read by read_llama"):
        architecture("llama")(read_gpt_oss)
