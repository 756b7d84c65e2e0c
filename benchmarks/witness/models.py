"""Models of random weights, made on the spot: a config and a tokenizer; the server draws the weights itself.

``dense`` and ``mixture`` are small enough for a core and large enough that their weights come from memory. ``null`` has
as many layers and as many words, and layers so narrow that next to nothing is left to compute: what its server takes is
the engine's own time. ``wide`` is ``null`` with products that compute as little for a token, and whose weights pass
through the caches as those of a real model do: between them the engine's code is not found there either.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from benchmarks.witness.environment import Environment
from benchmarks.witness.workloads import CONTEXT
from cluster_specs.errors import UserError

VOCABULARY: Final = 32000
_ALL: Final = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "num_hidden_layers": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_LLAMA: Final = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **_ALL}
_HEADS: Final = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64}
_NARROW: Final = {**_LLAMA, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "null": {**_NARROW, "intermediate_size": 64},
    "wide": {**_NARROW, "intermediate_size": 81920},  # 31 MB of weights a layer, as many as the dense model has
    "dense": {**_LLAMA, **_HEADS, "hidden_size": 1024, "intermediate_size": 4096},
    "mixture": {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        **_ALL,
        **_HEADS,
        "hidden_size": 1024,
        "intermediate_size": 1408,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": None,
    },
}
# Random words, so that no text is needed: the client sends token numbers, and answers are noise anyway.
_TOKENIZER: Final = """
import random, sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
folder, size = sys.argv[1], int(sys.argv[2])
drawn = random.Random(0)
words = ["".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=drawn.randint(2, 9))) for _ in range(60000)]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
)
tokenizer.train_from_iterator((" ".join(drawn.choices(words, k=200)) for _ in range(3000)), trainer)
PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
"""


def make_models(environment: Environment, folder: Path) -> dict[str, Path]:
    """Write every model below ``folder`` and return their folders by name; raises ``UserError``."""
    places = {name: folder / name for name in CONFIGS}
    for name, place in places.items():
        place.mkdir(parents=True, exist_ok=True)
        write_config(name, place)
    first = places["null"]
    if not (first / "tokenizer.json").exists():
        command = [str(environment.python), "-c", _TOKENIZER, str(first), str(VOCABULARY)]
        done = subprocess.run(
            command, env=environment.variables(), capture_output=True, text=True, check=False, timeout=300
        )
        if done.returncode:
            raise UserError(f"no tokenizer could be made: {done.stderr.strip().splitlines()[-1:]}")
    for place in places.values():
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if place != first:
                (place / name).write_bytes((first / name).read_bytes())
    return places


def write_config(name: str, place: Path) -> None:
    """Write the ``config.json`` of a model."""
    (place / "config.json").write_text(json.dumps(CONFIGS[name], indent=2) + "\n")
