"""Everything a single GPU can add in less than half an hour, in slices that can be cut off and resumed."""
