"""What a person's own file brings: ops with kernels of their own, and how such a file is loaded."""
