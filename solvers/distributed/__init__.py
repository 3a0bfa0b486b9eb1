"""krylearn on several processes, with PETSc as the engine (extra ``[petsc]``; docs/distributed.md).

Needs petsc4py and mpi4py when something is built, not when this is imported.
"""

from .iteration import cg
from .operator import DistributedPoisson
from .partition import Partition
from .petsc_plugin import PC
from .preconditioner import DistributedMultigrid

__all__ = ["PC", "DistributedMultigrid", "DistributedPoisson", "Partition", "cg"]
