"""One module a library; each runs as `python -m benchmarks.compression.sides.<name> WORKLOAD MODE` in its own environment."""
