"""Prefill and decode on devices of their own: replay and plan space."""
