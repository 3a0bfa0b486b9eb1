"""Benchmarks of solvers that a user runs on a machine or a system of their own."""
