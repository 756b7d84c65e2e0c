"""Readers of other tools' measured tables."""
