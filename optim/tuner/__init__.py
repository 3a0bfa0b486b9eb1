"""`CurvatureTuner`: learning rate and momentum found while training."""

from .loop import TunerWarning
from .optimizer import CurvatureTuner

__all__ = ["CurvatureTuner", "TunerWarning"]
