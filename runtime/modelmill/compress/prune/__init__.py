"""Which weights become zero: a file for each method."""
