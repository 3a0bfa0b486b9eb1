"""What trains networks: the curvature products, spectra and tuners of krylearn."""

from .curvature import Curvature, empirical_fisher, ggn, hessian, preconditioned

__all__ = ["Curvature", "empirical_fisher", "ggn", "hessian", "preconditioned"]
