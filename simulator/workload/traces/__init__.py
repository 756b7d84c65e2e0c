"""Reading request traces: containers, records, times and every known format."""
