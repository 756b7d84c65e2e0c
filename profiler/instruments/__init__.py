"""The device under test: clocks, energy, throttling, links and identity, read through its driver."""
