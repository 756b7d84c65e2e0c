"""How any file is read, written and locked: bounded, whole, by one at a time."""
