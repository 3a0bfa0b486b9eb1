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
from .spectra.quadrature import Spectrum, slq
from .tuner.constants import TunerConstants
from .tuner.optimizer import CurvatureTuner
from .tuner.session import TunerWarning

__all__ = [
    "Change", "Curvature", "CurvatureTuner", "CurvatureWarning", "Facts", "GradientNoise", "ScalingWarning", "Spectrum",
    "TunerConstants", "TunerWarning", "batch_extremes", "batch_sharpness", "critical_sharpness", "deconvolve",
    "empirical_fisher", "fit_sharpness", "ggn", "gradient_noise_scale", "hessian", "hessian_noise", "preconditioned",
    "scale_hyperparameters", "sharpness", "slq", "stability",
]  # fmt: skip
