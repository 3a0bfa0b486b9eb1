"""What trains networks: the curvature products, spectra and tuners of krylearn."""

from .curvature import Curvature, empirical_fisher, ggn, hessian, preconditioned
from .spectrum import Spectrum, slq

__all__ = ["Curvature", "Spectrum", "empirical_fisher", "ggn", "hessian", "preconditioned", "slq"]
