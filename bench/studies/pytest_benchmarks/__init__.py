"""Modules for pytest-benchmark: `pytest bench --benchmark-only`."""
