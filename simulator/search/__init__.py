"""Judging every plan of a space: fan-out over threads, ranking, and the most traffic a plan sustains."""
