"""One file per op family, each with one value that says all that is special about it; ``all.py`` lists them."""
