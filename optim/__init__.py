"""What trains networks: the curvature products, spectra and tuners of krylearn."""

from .batch_noise.noise import GradientNoise, gradient_noise_scale, hessian_noise
from .batch_noise.random_matrix import batch_extremes, deconvolve
from .batch_noise.sharpness_laws import fit_sharpness
from .batch_size.rescaling import ScalingWarning, scale_hyperparameters
from .batch_size.rule_choice import Change, Facts
from .curvature.factories import Curvature, empirical_fisher, ggn, hessian, preconditioned
from .curvature.methods import CurvatureWarning
from .sharpness_meters.edges import batch_sharpness, critical_sharpness, sharpness
from .sharpness_meters.meters import stability
from .spectra.eigenpairs import Eigenpairs, top_eigenpairs
from .spectra.quadrature import Spectrum, slq
from .spectra.trace import estimate_trace
from .tuner.checkpoint import load_distributed, save_distributed
from .tuner.constants import TunerConstants
from .tuner.optimizer import CurvatureTuner
from .tuner.session import TunerWarning
from .tuner.spectral import Proposal

__all__ = [
    "Change", "Curvature", "CurvatureTuner", "CurvatureWarning", "Eigenpairs", "Facts", "GradientNoise", "Proposal",
    "ScalingWarning", "Spectrum", "TunerConstants", "TunerWarning", "batch_extremes", "batch_sharpness",
    "critical_sharpness", "deconvolve", "empirical_fisher", "estimate_trace", "fit_sharpness", "ggn",
    "gradient_noise_scale", "hessian", "hessian_noise", "load_distributed", "preconditioned", "save_distributed",
    "scale_hyperparameters", "sharpness", "slq", "stability", "top_eigenpairs",
]  # fmt: skip
