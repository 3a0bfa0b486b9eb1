"""One rank fails with an error of its own while the others wait for it; `plain`: nobody takes care of it."""

import contextlib
import sys

import numpy as np
from krylearn.solvers.distributed import DistributedPoisson, Partition
from krylearn.solvers.distributed.petsc_library import ending_all_ranks, world

comm = world()
with contextlib.nullcontext() if "plain" in sys.argv else ending_all_ranks(comm, "failing_program"):
    part = Partition((24, 8, 8))
    A = DistributedPoisson.from_coefficients(np.ones(part.own_shape), part)
    if comm.rank == 1:
        raise RuntimeError("only rank 1 fails")
    A @ np.ones(part.own_shape)
