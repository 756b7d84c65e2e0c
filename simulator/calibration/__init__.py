"""Constants of an engine profile estimated from runs of one server, and the runs that tell most of them."""
