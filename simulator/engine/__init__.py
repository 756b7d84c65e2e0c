"""The exact iteration-level event loop."""
