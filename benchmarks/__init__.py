"""Compare with other packages on the same splits: ``python -m benchmarks --help``."""
