"""One rank fails: with an error of its own while the others wait for it, or with a part of the wrong shape."""

import sys

import numpy as np
from krylearn.solvers.distributed import DistributedPoisson, Partition
from krylearn.solvers.distributed.petsc_library import ending_all_ranks, world

comm = world()
with ending_all_ranks(comm, "failing_program"):
    part = Partition((24, 8, 8))
    kappa = np.ones(part.own_shape)
    if "shape" in sys.argv and comm.rank == 2:
        kappa = np.ones((3, 8, 8))
    A = DistributedPoisson.from_coefficients(kappa, part)
    if comm.rank == 1:
        raise RuntimeError("only rank 1 fails")
    A @ np.ones(part.own_shape)
