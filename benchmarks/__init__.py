"""Measurements: each module prints a table when it is run as ``python -m benchmarks.NAME``."""
