"""What a plan puts into device memory, and what is left for the KV cache."""
