"""Lightning callbacks: hyper-parameters that follow the batch size, the gradient noise scale, spectra in the logger.

They need `pip install "krylearn[train]"`. All work in automatic and manual optimization and in mixed precision, and
what they know is in the checkpoint, so a resumed run goes on as the uninterrupted one.
"""

from .batch_size_callback import ScaleWithBatchSize
from .noise_monitor import NoiseScaleMonitor, effective_batch_size
from .spectrum_logger import SpectrumLogger

__all__ = ["NoiseScaleMonitor", "ScaleWithBatchSize", "SpectrumLogger", "effective_batch_size"]
