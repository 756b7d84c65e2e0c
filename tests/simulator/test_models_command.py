"""`apex models` on a terminal and as JSON."""

import json
from pathlib import Path

from click.testing import CliRunner

from simulator.commands.models import models
from simulator.model.load_model import bundled_models


def test_list_names_every_bundled_model() -> None:
    """The bare command prints one line per bundled model, JSON one object."""
    listed = CliRunner().invoke(models, [])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == list(bundled_models())
    objects = json.loads(CliRunner().invoke(models, ["--json"]).stdout)
    assert [model["name"] for model in objects] == list(bundled_models())


def test_show_breaks_a_model_into_cells() -> None:
    """The cells' parameters times their layers, and embedding and head, are all parameters."""
    shown = json.loads(CliRunner().invoke(models, ["deepseek-v3", "--json"]).stdout)
    inside = sum(block["layers"] * cell["parameters"] for block in shown["blocks"] for cell in block["cells"])
    outside = 2 * shown["vocab_size"] * shown["hidden_size"] + shown["hidden_size"]
    assert inside + outside == shown["parameters"]
    assert [block["layers"] for block in shown["blocks"]] == [3, 58]
    assert {cell["kind"] for block in shown["blocks"] for cell in block["cells"]} == {"latent_attention", "mlp", "moe"}


def test_show_prints_windows_and_active_experts() -> None:
    """The table says what a person would ask: active experts, KV per token, windows."""
    text = CliRunner().invoke(models, ["gpt-oss-20b"]).stdout
    assert "20.91 B (4.19 B active per token)" in text
    assert "window 128" in text
    assert "12 layers of" in text


def test_show_reads_a_path(tmp_path: Path) -> None:
    """A config.json of one's own is shown like a bundled model."""
    source = Path(__file__).parents[2] / "simulator" / "model" / "configs" / "tiny-llama.json"
    config = tmp_path / "mine" / "config.json"
    config.parent.mkdir()
    config.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    assert CliRunner().invoke(models, [str(config)]).stdout.startswith("mine (llama)")
