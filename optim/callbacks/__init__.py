"""Lightning callbacks: hyper-parameters that follow the batch size, the gradient noise scale, spectra in the logger.

They need `pip install "krylearn[train]"`. All work in automatic and manual optimization and in mixed precision, and
what they know is in the checkpoint, so a resumed run goes on as the uninterrupted one.
"""

from .batch_size import ScaleWithBatchSize
from .noise_scale import NoiseScaleMonitor, effective_batch_size
from .spectrum import SpectrumLogger
from .tuner import TuneFromCurvature

__all__ = ["NoiseScaleMonitor", "ScaleWithBatchSize", "SpectrumLogger", "TuneFromCurvature", "effective_batch_size"]
