"""The sections of docs/accuracy.md, each from points, runs or estimates that are already there."""
