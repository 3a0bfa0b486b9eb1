"""Measure and show: the command line, benchmarks, rivals and pictures of krylearn."""
