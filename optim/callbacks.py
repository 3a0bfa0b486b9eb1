"""Lightning callbacks: hyper-parameters that follow the batch size, the gradient noise scale, spectra in the logger.

They need `pip install "krylearn[train]"`. All work in automatic and manual optimization and in mixed precision, and
what they know is in the checkpoint, so a resumed run goes on as the uninterrupted one.
"""

from .batch_size_callback import ScaleWithBatchSize
from .noise_monitor import NoiseScaleMonitor, effective_batch_size
from .spectrum_logger import SpectrumLogger
from .tuning_callback import TuneFromCurvature

__all__ = ["NoiseScaleMonitor", "ScaleWithBatchSize", "SpectrumLogger", "TuneFromCurvature", "effective_batch_size"]
