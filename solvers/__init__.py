"""What solves the systems: Krylov methods with one honest stopping rule, and the preconditioners that drive them."""

from .conjugate_directions import dcdm
from .conjugate_gradients import cg
from .krylov import ConvergenceError, Reason, SolveInfo

__all__ = ["ConvergenceError", "Reason", "SolveInfo", "cg", "dcdm"]
