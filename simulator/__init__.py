"""What serving will do: model, plan, memory, step cost, engine, workload, metrics, search."""
