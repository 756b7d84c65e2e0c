"""What an op will cost: ops, roofline, fitted forms, prediction, comparison."""
