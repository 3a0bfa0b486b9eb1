"""Stochastic Lanczos quadrature: spectra with residual bounds, intervals, densities and pictures."""
