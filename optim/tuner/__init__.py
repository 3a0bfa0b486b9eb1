"""`CurvatureTuner`: learning rate and momentum found while training."""

from .constants import TunerConstants
from .optimizer import CurvatureTuner
from .session import TunerWarning

__all__ = ["CurvatureTuner", "TunerConstants", "TunerWarning"]
