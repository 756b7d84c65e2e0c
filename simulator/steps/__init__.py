"""What the steps of a plan cost: ops priced as curves and compiled into the engine's tables."""
