"""Drawing requests: arrival processes, lengths, sessions, shared prefixes and benchmark clients."""
