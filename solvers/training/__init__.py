"""Training of the coefficient network: `train`. Needs `pip install "krylearn[train]"`."""

from .coefficients import train

__all__ = ["train"]
