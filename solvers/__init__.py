"""What solves the systems: Krylov methods with one honest stopping rule, and the preconditioners that drive them."""

from .adjoint import solve
from .conjugate_directions import dcdm
from .conjugate_gradients import cg
from .dcdm_directions import DCDM
from .dcdm_network import DCDMNetwork
from .krylov import ConvergenceError, Reason, SolveInfo
from .lanczos import ritz_pairs, tridiagonalize
from .multigrid import NeuralMultigrid
from .npsdo_directions import NPSDO
from .npsdo_network import NPSDONetwork

__all__ = [
    "DCDM", "NPSDO", "ConvergenceError", "DCDMNetwork", "NPSDONetwork", "NeuralMultigrid", "Reason", "SolveInfo", "cg",
    "dcdm", "ritz_pairs", "solve", "tridiagonalize",
]  # fmt: skip
