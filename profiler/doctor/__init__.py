"""What would spoil a measurement on this machine, each with its fix."""
