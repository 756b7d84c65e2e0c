"""What a fit has learnt, as values: references, knots, held-out errors, calibrations."""
