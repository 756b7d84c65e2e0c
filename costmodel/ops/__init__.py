"""What an op is: its sizes, its work, the least time it can take, and the label of its measurements."""
