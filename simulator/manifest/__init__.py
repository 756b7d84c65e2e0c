"""The op shapes that a search asks for, written for the profiler."""
