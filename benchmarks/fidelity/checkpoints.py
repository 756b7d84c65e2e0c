"""Checkpoints that measured servers ran and no bundled config describes, written as a config.json of their own.

nvidia/MiniMax-M2.5-NVFP4 is ModelOpt's NVFP4 of the routed experts alone: attention, router and head keep 16 bits.
"""

import json
from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from simulator.model.load_model import load_model
from simulator.model.spec import ModelSpec

_EXPERTS_ONLY: Final = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "group_size": 16,
    "exclude_modules": [
        "lm_head",
        "model.embed_tokens",
        "model.layers.*.self_attn*",
        "model.layers.*.block_sparse_moe.gate",
    ],
}
# Name: the bundled config it differs from, and the values that differ.
CHECKPOINTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "minimax-m2.5-nvfp4": ("minimax-m2.5", {"quantization_config": _EXPERTS_ONLY}),
}


@cache
def measured_model(name: str) -> ModelSpec:
    """Return a bundled model, or one of ``CHECKPOINTS``."""
    if name not in CHECKPOINTS:
        return load_model(name)
    like, changes = CHECKPOINTS[name]
    bundled = resources.files("simulator.model") / "configs" / f"{like}.json"
    config = json.loads(bundled.read_text(encoding="utf-8")) | changes
    with TemporaryDirectory() as folder:
        path = Path(folder) / name / "config.json"
        path.parent.mkdir()
        path.write_text(json.dumps(config), encoding="utf-8")
        return load_model(path)
