"""Relations between two runs that must hold whatever the numbers are, tried on random cases."""
