"""Layouts as values: of one pool of devices, and of a prefill and a decode pool."""
