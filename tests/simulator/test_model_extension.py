"""A custom cell is one file: the documented example, run as documented."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from costmodel.ops.op_types import Gemm
from simulator.model.architectures import architecture
from simulator.model.cell import kind_of, register_cell
from simulator.model.cells.mlp import Mlp
from simulator.model.extension import load_extension
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


def _documented(folder: Path) -> tuple[Path, Path]:
    """Write the page's example and a config for it."""
    file = folder / "retention.py"
    file.write_text(_PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    config = folder / "toy" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(_CONFIG), encoding="utf-8")
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


def test_names_cannot_be_taken_twice() -> None:
    """A second cell or reader under a known name is refused, not silently preferred."""
    with pytest.raises(ValueError, match="already registered by Mlp"):
        register_cell("mlp")(type("Other", (Mlp,), {}))
    with pytest.raises(ValueError, match="already read by read_llama"):
        architecture("llama")(read_gpt_oss)
