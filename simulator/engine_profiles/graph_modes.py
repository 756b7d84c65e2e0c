"""Names and bounds of CUDA-graph capture, as options and profiles state them; imports nothing, so that options can."""

from typing import Final, Literal, get_args

MOST_GRAPH_TOKENS: Final = 2**14

# vLLM's names (vllm/config/compilation.py); FULL, one graph for steps with prompts too, is not simulated.
GraphMode = Literal["PIECEWISE", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"]
MODE_NAMES: Final[tuple[GraphMode, ...]] = get_args(GraphMode)

# How steps of decodes alone run in each mode, and steps with a part of a prompt.
GRAPH_MODES: Final[dict[GraphMode, tuple[Literal["full", "piecewise"], Literal["piecewise", "none"]]]] = {
    "PIECEWISE": ("piecewise", "piecewise"),
    "FULL_DECODE_ONLY": ("full", "none"),
    "FULL_AND_PIECEWISE": ("full", "piecewise"),
}
