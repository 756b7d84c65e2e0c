"""Hugging Face ids name a model: one the local cache holds, or one that a bundled config describes."""

import json
from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from simulator.model.checkpoints import bundled_checkpoints, cache_folder
from simulator.model.load_model import bundled_models, load_model

CONFIG = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def _keep(cache: Path, folder: str, commit: str = "0f1e", *, reference: str | None = "0f1e", layers: int = 4) -> None:
    snapshot = cache / folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}), encoding="utf-8")
    if reference is not None:
        (cache / folder / "refs").mkdir(exist_ok=True)
        (cache / folder / "refs" / "main").write_text(reference, encoding="utf-8")


def test_every_id_of_the_table_describes_a_model() -> None:
    """Each id leads to a bundled config that is read, under the id's own spelling."""
    known = bundled_checkpoints()
    assert {found.bundled for found in known.values()} <= set(bundled_models())
    for name, found in known.items():
        model = load_model(name)
        assert model.name == model.checkpoint == found.name


@pytest.mark.parametrize(
    ("name", "bundled", "max_position", "quantisation"),
    [
        ("Qwen/Qwen3-8B", "qwen3-8b", 40960, None),
        ("qwen/qwen3-8b-FP8", "qwen3-8b", 40960, "fp8_block"),
        ("QWEN/Qwen3-30B-A3B-Instruct-2507-FP8", "qwen3-30b-a3b", 262144, "fp8_block"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b", 131072, None),
        ("openai/gpt-oss-20b", "gpt-oss-20b", 131072, "mxfp4"),
    ],
)
def test_an_id_is_its_bundled_config_with_its_own_keys(
    name: str, bundled: str, max_position: int, quantisation: str | None
) -> None:
    """Case does not matter; a variant differs in the keys that the table states, and a note says what was read."""
    model = load_model(name)
    assert model.parameters() == load_model(bundled).parameters()
    assert (model.max_position, model.quantisation) == (max_position, quantisation)
    assert bundled in model.notes[0]


def test_a_bundled_name_is_found_in_any_case() -> None:
    """People write Llama-3.1-8B."""
    assert load_model("Llama-3.1-8B") == load_model("llama-3.1-8b")


def test_the_local_cache_is_read(cache: Path) -> None:
    """The snapshot of refs/main counts, in any case, and goes before the table of bundled ids."""
    _keep(cache, "models--Acme--Big-Model", "aaaa", layers=2)
    _keep(cache, "models--Acme--Big-Model", layers=3)
    _keep(cache, "models--Qwen--Qwen3-8B", layers=5)
    model = load_model("acme/big-model")
    assert (model.checkpoint, model.num_layers) == ("Acme/Big-Model", 3)
    assert "models--Acme--Big-Model" in model.notes[0]
    assert load_model("Qwen/Qwen3-8B").num_layers == 5


def test_the_only_snapshot_needs_no_reference(cache: Path) -> None:
    """One snapshot is unambiguous; two without refs/main are not."""
    _keep(cache, "models--Acme--Small", reference=None)
    assert load_model("Acme/Small").num_layers == 4
    _keep(cache, "models--Acme--Small", "aaaa", reference=None)
    with pytest.raises(UserError, match=r"holds no config\.json") as caught:
        load_model("Acme/Small")
    assert "hf download Acme/Small config.json" in caught.value.hint


@pytest.mark.parametrize("reference", ["", "..", "../../..", "a/b", "x" * 500, "gone"])
def test_a_reference_that_names_no_snapshot_is_refused(cache: Path, reference: str) -> None:
    """refs/main never leads out of the snapshots, and a bundled config still describes what it can."""
    _keep(cache, "models--Acme--Small", reference=reference)
    _keep(cache, "models--Qwen--Qwen3-8B", reference=reference)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        load_model("Acme/Small")
    assert load_model("Qwen/Qwen3-8B").num_layers == 36


def test_the_cache_is_where_hugging_face_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME, else the home folder."""
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hub"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "huggingface" / "hub"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/huggingface/hub").expanduser()


@pytest.mark.parametrize(
    "text", ["", " ", "x" * 300, "a/" * 200, "a\0b", "a\nb", "/nowhere/config.json", "llama-3-70b"]
)
def test_what_is_no_model_is_one_message(text: str) -> None:
    """Whatever the text, the answer is one short error."""
    with pytest.raises(UserError, match="neither a bundled name") as caught:
        load_model(text)
    assert len(str(caught.value)) < 200
    assert caught.value.hint


def test_an_unknown_id_is_answered_with_how_to_have_it(cache: Path) -> None:
    """The message names the cache that was looked in, the hint the download and close ids."""
    with pytest.raises(UserError, match="nor in the Hugging Face cache") as caught:
        load_model("Qwen/Qwen3-7B")
    assert str(cache) in str(caught.value)
    assert "hf download Qwen/Qwen3-7B config.json" in caught.value.hint
    assert "Qwen/Qwen3-8B" in caught.value.hint


def test_a_folder_is_a_model_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with dots in its name, the current folder, a folder without a config and a broken link."""
    folder = tmp_path / "acme-2.5-7b"
    folder.mkdir()
    with pytest.raises(UserError, match=r"is a folder without a config\.json"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    monkeypatch.chdir(folder)
    assert load_model(folder).name == load_model(".").name == load_model("config.json").name == "acme-2.5-7b"
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a link that leads nowhere"):
        load_model(tmp_path / "broken")
