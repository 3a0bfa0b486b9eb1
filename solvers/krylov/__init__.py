"""Krylov methods and the one stopping rule: recurrences yield states, the driver decides."""
