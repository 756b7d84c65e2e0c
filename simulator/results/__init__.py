"""What a run of the engine says: metrics, their intervals, and where time and energy went."""
