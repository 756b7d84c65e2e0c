"""From what a fit has learnt, or from constants, to the price of an op: curves, surfaces, power, domain."""
