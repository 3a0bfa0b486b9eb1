"""Training loops of other packages; nothing of them is imported here."""

from .trainer import tune_trainer

__all__ = ["tune_trainer"]
