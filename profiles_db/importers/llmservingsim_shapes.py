"""Which op a module of LLMServingSim's tables is, and its shape on one rank; or why it is none."""

from collections.abc import Mapping
from typing import Any, Final

from cluster_specs.files.shown import shown
from profiles_db.importers.llmservingsim_bundle import Bundle

_ELEMENT_BYTES: Final = 2
_OF_TRANSFORMERS: Final = "module of transformers, which no engine runs"
# Modules that no op of ours is: of vLLM, and of the older tables.
_UNLIKE: Final[Mapping[str, str]] = {
    "layernorm": "mean of a norm that adds a residual and one that does not",
    "qk_norm": "mean of the norms of queries and keys",
}
_UNLIKE_OLDER: Final[Mapping[str, str]] = {
    "embedding": _OF_TRANSFORMERS,
    "input_layernorm": _OF_TRANSFORMERS,
    "post_layernorm": _OF_TRANSFORMERS,
    "final_layernorm": _OF_TRANSFORMERS,
    "rope": _OF_TRANSFORMERS,
    "act_fn": _OF_TRANSFORMERS,
    "attn": "attention of transformers; a table of its own holds flash-attn",
    "gate": "router with what follows it",
}


def op_of(layer: str, bundle: Bundle) -> tuple[str, dict[str, Any]] | str:
    """Return the family of a module and its columns but the tokens, or why it is no op of ours.

    Small ops have ``row_bytes`` instead of the bytes they move.
    """
    sizes, ranks = bundle.sizes, bundle.ranks
    (heads, kv_heads), head_dim = bundle.heads, sizes.head_dim
    gemms = {
        "qkv_proj": ((heads + 2 * kv_heads) * head_dim, sizes.hidden),
        "q_proj": (heads * head_dim, sizes.hidden),
        "k_proj": (kv_heads * head_dim, sizes.hidden),
        "v_proj": (kv_heads * head_dim, sizes.hidden),
        "o_proj": (sizes.hidden, heads * head_dim),
        "gate_up_proj": (2 * sizes.inter // ranks, sizes.hidden),
        "gate_proj": (sizes.inter // ranks, sizes.hidden),
        "up_proj": (sizes.inter // ranks, sizes.hidden),
        "down_proj": (sizes.hidden, sizes.inter // ranks),
        "expert.w1": (sizes.expert_inter, sizes.hidden),
        "expert.w3": (sizes.expert_inter, sizes.hidden),
        "expert.w2": (sizes.hidden, sizes.expert_inter),
        "lm_head": (sizes.vocab // ranks, sizes.hidden),
    }
    if layer in gemms:
        n, k = gemms[layer]
        backend = "torch.cublas"
        return "gemm", {"n": n, "k": k, "scaling": "none", "quantise": False, "backend": backend}
    reason = (_UNLIKE_OLDER if bundle.is_older else _UNLIKE).get(layer)
    if reason is not None:
        return reason
    qk_width = (heads + kv_heads) * head_dim
    small = {
        "embedding": ("embedding", sizes.hidden, 2 * _ELEMENT_BYTES),
        "final_layernorm": ("add_rmsnorm", sizes.hidden, 4 * _ELEMENT_BYTES),
        "rotary_emb": ("rope", qk_width, 2 * _ELEMENT_BYTES),
        "act_fn": ("silu_mul", sizes.inter // ranks, 3 * _ELEMENT_BYTES),
        # 16-bit logits are cast to fp32 and read once more.
        "sampler": ("sampler", sizes.vocab, _ELEMENT_BYTES + 8),
    }
    if layer not in small or bundle.is_older:
        return f"module {shown(layer)} has no counterpart"
    if layer in {"final_layernorm", "sampler"} and ranks > 1:
        return "copied from tp1"
    op, width, moved = small[layer]
    return "elementwise", {"op": op, "width": width, "row_bytes": width * moved, "backend": f"vllm.{op}"}
