"""Fitted against measured, and two sets of measurements side by side: tables, plots and a page."""
