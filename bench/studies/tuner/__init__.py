"""The tuner against grids and learning-rate-free rivals on small workloads."""
