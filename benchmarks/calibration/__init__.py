"""Calibrating each measured server on four of its runs, and predicting the others."""
