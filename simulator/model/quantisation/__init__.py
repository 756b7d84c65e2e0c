"""The number formats of a checkpoint's matrices, as each quantisation tool writes them."""
