"""What trains networks: the curvature products, spectra and tuners of krylearn."""

from .curvature import Curvature, empirical_fisher, ggn, hessian, preconditioned
from .edges import batch_sharpness, critical_sharpness, sharpness
from .meters import stability
from .noise import GradientNoise, gradient_noise_scale, hessian_noise
from .regimes import fit_sharpness
from .rescaling import ScalingWarning, scale_hyperparameters
from .scaling import Change, Facts
from .spectrum import Spectrum, slq
from .spiked import batch_extremes, deconvolve
from .tuner import CurvatureTuner
from .tuner_loop import TunerWarning

__all__ = [
    "Change", "Curvature", "CurvatureTuner", "Facts", "GradientNoise", "ScalingWarning", "Spectrum", "TunerWarning",
    "batch_extremes", "batch_sharpness",
    "critical_sharpness", "deconvolve", "empirical_fisher", "fit_sharpness", "ggn", "gradient_noise_scale", "hessian",
    "hessian_noise", "preconditioned", "scale_hyperparameters", "sharpness", "slq", "stability",
]  # fmt: skip
