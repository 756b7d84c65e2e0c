"""Measuring ops: kernels, timer, collectives, clocks and energy, the torchrun worker."""
