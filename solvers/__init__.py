"""What solves the systems: Krylov methods with one honest stopping rule, and the preconditioners that drive them."""

from .front_door.calls import factorized, solve_matrix
from .krylov.conjugate_directions import dcdm
from .krylov.conjugate_gradients import cg
from .krylov.driver import ConvergenceError, Reason, SolveInfo
from .krylov.implicit_gradients import solve
from .lanczos import ritz_pairs, tridiagonalize
from .multigrid.preconditioner import NeuralMultigrid
from .published.dcdm_method import DCDM
from .published.dcdm_network import DCDMNetwork
from .published.npsdo_method import NPSDO
from .published.npsdo_network import NPSDONetwork

__all__ = [
    "DCDM", "NPSDO", "ConvergenceError", "DCDMNetwork", "NPSDONetwork", "NeuralMultigrid", "Reason", "SolveInfo", "cg",
    "dcdm", "factorized", "ritz_pairs", "solve", "solve_matrix", "tridiagonalize",
]  # fmt: skip
