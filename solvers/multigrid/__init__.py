"""`NeuralMultigrid`: levels, the network that reads their conductances, and its set-up on either device."""

from .preconditioner import NeuralMultigrid, default_preconditioner

__all__ = ["NeuralMultigrid", "default_preconditioner"]

from . import compile_progress as compile_progress  # says what is compiled, from the first import on
