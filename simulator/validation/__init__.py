"""Runs of real servers beside what the simulator predicts of them."""
