"""The comparison of the serving runtime with its peers: `make bench-serving JSON=file`; `__main__` tells the rules."""
