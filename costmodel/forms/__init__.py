"""One file per op family: how its rows become knots, and how its knots become prices."""
