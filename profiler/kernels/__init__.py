"""The kernels that are measured, by where they come from."""
