"""From a Hugging Face config to a `ModelSpec`: the registry of architectures and what all of them share.

A reader is registered for one or more values of `model_type`; `simulator.model.load_model` registers those that come
with the package, so whoever reads a config takes `from_hf_config` from there. Keys that change the computation in a way
no cell models are refused; the many metadata keys of real configs are ignored.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from simulator.model.checkpoint_kv import read_checkpoint_kv
from simulator.model.harmless_keys import unread_note
from simulator.model.hf_config import HfConfig
from simulator.model.rope import Positions, read_positions
from simulator.model.spec import ModelSpec

Reader = Callable[[HfConfig, str], ModelSpec]

MOST_PARAMETERS: Final = 10**14  # fifty times the largest model anyone published

ARCHITECTURES: Final[dict[str, Reader]] = {}
_READS: Final[dict[str, frozenset[str]]] = {}

# Keys that change what a layer computes, with what they mean: refused but by the readers that say they read them.
_UNSUPPORTED: Final[Mapping[str, str]] = {
    "index_topk": "sparse attention chosen by an indexer is not modelled",
    "attn_output_gate": "gated attention output is not modelled",
    "linear_num_key_heads": "linear attention layers are not modelled",
    "mamba_d_state": "state-space layers are not modelled",
    "state_size": "state-space layers are not modelled",
    "ssm_cfg": "state-space layers are not modelled",
    "num_kv_shared_layers": "layers that share another layer's KV are not modelled",
    "cross_attention_layers": "interleaved cross-attention layers are not modelled",
    "add_cross_attention": "cross attention in this architecture is not modelled",
    "quantization": "MLX quantisation is not run by any engine modelled here",
    "zero_expert_num": "identity experts are not modelled",
}

_STATE_SPACE: Final = "its state-space (Mamba) layers are not modelled"
_LINEAR: Final = "its linear attention layers are not modelled"
_OTHER_TASKS: Final = ("ForSequenceClassification", "ForTokenClassification", "RewardModel", "ForMaskedLM")
_NO_DECODER: Final = "it generates no text token by token"
# Well-known model types without a reader, and why.
_NOT_MODELLED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("mamba", "falcon_mamba"), _STATE_SPACE),
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid", "jamba", "plamo2", "zamba"), _STATE_SPACE),
    **dict.fromkeys(("nemotron_h_omni", "nemotron_hybrid", "nemotron_h_puzzle", "zamba2"), _STATE_SPACE),
    **dict.fromkeys(("bailing_hybrid", "bailing_moe_linear", "kimi_linear", "minimax", "minimax_text_01"), _LINEAR),
    **dict.fromkeys(("minimax_m1", "olmo_hybrid", "rwkv", "recurrent_gemma", "qwen4_exp", "kimi_k3"), _LINEAR),
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm2_vl"), "its short-convolution layers are not modelled"),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "modernbert", "clip", "siglip"), _NO_DECODER),
    **dict.fromkeys(("gemma3n", "gemma3n_text"), "its alternating updates of several hidden states are not modelled"),
    **dict.fromkeys(("mimo_v2", "mimo_v2_flash"), "keys and values of different widths in one layer are not modelled"),
    "mllama": "its interleaved cross-attention layers are not modelled",
    "nemotron-nas": "layers of different kinds chosen by a search are not modelled",
    "deepseek_v4": "its compressed sparse attention is not modelled",
    "longcat_flash": "its identity experts and double attention layers are not modelled",
}


def architecture(*model_types: str, reads: Iterable[str] = ()) -> Callable[[Reader], Reader]:
    """Register a reader: read configs of these ``model_type`` values with the decorated function.

    ``reads`` names keys that it understands and others do not.
    """

    def register(reader: Reader) -> Reader:
        for model_type in model_types:
            known = ARCHITECTURES.get(model_type)
            if known is not None and (known.__module__, known.__qualname__) != (reader.__module__, reader.__qualname__):
                msg = f"model type {model_type!r} is already read by {known.__qualname__}"
                raise ValueError(msg)
            ARCHITECTURES[model_type] = reader
            _READS[model_type] = frozenset(reads)
        return reader

    return register


def from_hf_config(source: str | Path | Mapping[str, Any] | HfConfig, *, name: str | None = None) -> ModelSpec:
    """Read a config.json (or the folder that holds one, or its parsed content) into a ``ModelSpec``.

    Raises ``UserError`` naming file, key, value and limit for anything that cannot be understood or is not supported.
    """
    if isinstance(source, HfConfig):
        config = source
    elif isinstance(source, Mapping):
        config = HfConfig(source, name or "config")
    else:
        config = HfConfig.from_file(Path(source))
        if name is None:
            path = Path(source).absolute()
            name = path.name if path.is_dir() else path.parent.name if path.name == "config.json" else path.stem
    reader = _reader_of(config)
    for written in config.strings("architectures"):
        if written.endswith(_OTHER_TASKS):
            raise config.fault("architectures", "a model that generates text: it classifies, scores or embeds")
    understood = _READS[config.text("model_type")]
    for key, because in _UNSUPPORTED.items():
        if key not in understood:
            config.refuse(key, because=because, hint="register a cell for it: docs/guides/add_a_model.md")
    model = reader(config, name or config.text("_name_or_path", "") or config.text("model_type", "model"))
    if model.parameters() > MOST_PARAMETERS:
        raise UserError(
            f"{config.place}: describes a model of {model.parameters():.3g} parameters, must be at most "
            f"{MOST_PARAMETERS:.0e}",
            hint="check hidden_size, intermediate_size, vocab_size and the number of experts",
        )
    kv = read_checkpoint_kv(config) or model.checkpoint_kv
    positions = read_positions(config)
    # What a wrapper says beside its text decoder is about the parts that are left out.
    note = None if model.left_out else unread_note(config.unread())
    return replace(
        model,
        notes=model.notes if note is None else (*model.notes, f"{config.place}: {note}"),
        checkpoint_kv=kv,
        positions=model.positions if positions == Positions() else positions,
    )


def _reader_of(config: HfConfig) -> Reader:
    """Return the reader of a config's ``model_type``."""
    model_type = config.text("model_type")
    reader = ARCHITECTURES.get(model_type)
    if reader is None:
        because = _NOT_MODELLED.get(model_type, "")
        import difflib

        close = difflib.get_close_matches(model_type[:40], sorted(ARCHITECTURES), n=4)
        raise UserError(
            f"{config.place}: model_type {shown(model_type)} is not supported{because and f': {because}'}",
            hint=f"{'close to it: ' + ', '.join(close) + '; ' if close else ''}all {len(ARCHITECTURES)} that are "
            "supported: docs/reference/models.md; a new one is one file (--extension): docs/guides/add_a_model.md",
        )
    return reader
