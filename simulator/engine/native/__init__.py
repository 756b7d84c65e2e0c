"""The engine as object code: compiled from the kernels, kept as a shared library, loaded without the compiler."""
