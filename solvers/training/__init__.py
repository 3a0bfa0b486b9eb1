"""Training: `train` (the coefficient network, on grids), `train_steps` (step sizes, on pieces).

Needs `pip install "krylearn[train]"`.
"""

from .coefficients import train
from .steps import train_steps

__all__ = ["train", "train_steps"]
