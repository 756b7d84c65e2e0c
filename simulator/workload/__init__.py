"""Request workloads: traces and generators."""
