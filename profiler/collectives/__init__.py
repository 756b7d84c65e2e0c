"""Measuring collectives: the operations, the groups they run over, and timing them on all ranks at once."""
