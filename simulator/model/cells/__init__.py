"""One file per kind of cell; importing this package registers the bundled ones."""

from simulator.model.cells import attention, latent_attention, mlp, moe

__all__ = ["attention", "latent_attention", "mlp", "moe"]
