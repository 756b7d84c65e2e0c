"""One file per kind of cell; importing this package registers the bundled ones."""

from simulator.model.cells import (
    attention,
    block_indexer,
    cross_attention,
    encoder_attention,
    gated_delta,
    indexer,
    latent_attention,
    mamba2,
    mlp,
    moe,
    per_layer_input,
)

__all__ = [
    "attention",
    "block_indexer",
    "cross_attention",
    "encoder_attention",
    "gated_delta",
    "indexer",
    "latent_attention",
    "mamba2",
    "mlp",
    "moe",
    "per_layer_input",
]
