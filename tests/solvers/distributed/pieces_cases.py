"""Pieces, weights, first graph and survey on boxes of ranks against those of one process; one line per system."""

import math

import numpy as np
from iterations_cases import cuts_of, graded, spanning
from krylearn.pde import Poisson, scene
from krylearn.solvers.distributed import DistributedPoisson, Partition
from krylearn.solvers.distributed.pieces.first_graph import build_first_graph
from krylearn.solvers.distributed.pieces.survey import has_several_conductances, take_survey
from krylearn.solvers.kernels.cpu.cell_bytes import find_cell_bytes
from krylearn.solvers.multigrid.graph_hierarchy import SHRINKS
from krylearn.solvers.multigrid.preconditioner import power_of_two
from krylearn.solvers.multigrid.setup_pieces.grid_level import finest_conductances, first_level
from krylearn.solvers.multigrid.setup_pieces.survey import survey_operator


def rough(shape, deviation, boundary="dirichlet"):
    """Cells that know nothing of one another: pieces of any shape, joined across blocks."""
    values = np.random.default_rng(10177).standard_normal(shape)
    return Poisson.from_coefficients(np.exp(deviation * values), boundary=boundary)


# longer than boxes on four ranks, so that these end inside the grid
CASES = {
    "mazes": (lambda: scene("mazes", (121, 18, 20), seed=10181), None),
    "graded": (lambda: graded((121, 24, 20)), None),
    "graded_cuts": (lambda: graded((122, 24, 20)), cuts_of),
    "rough": (lambda: rough((110, 20, 22), 3.0), None),
    "rough_periodic": (lambda: rough((111, 20, 22), 2.0, "periodic"), None),
    "rough_cuts": (lambda: rough((109, 21, 22), 3.0), cuts_of),
    "flat": (lambda: rough((150, 141), 3.0), None),
    "spanning": (lambda: spanning((110, 24, 22)), cuts_of),
}


def references():
    """None: one process is fast enough beside every rank."""
    return {}


def lines(comm, references):
    """Set up on boxes and as one process, compare bit by bit."""
    for name, (build, cut) in CASES.items():
        S = build()
        part = Partition(S.grid_shape, comm, cuts=cut(S.grid_shape, comm.size) if cut else None)
        A = DistributedPoisson.from_operator(S, part)
        factor = math.ldexp(1.0, -power_of_two(float(S.diag.max())))
        found = build_first_graph(A.part, A.fields, factor, np.float32)
        transfer, level, total = first_level(finest_conductances(S, factor), SHRINKS, np.float32)
        names = ("place", "begin", "index", "w", "axis", "ground", "shift", "diag")
        same = {each: np.array_equal(getattr(level, each), getattr(found.level, each)) for each in names}
        same["size"], same["total"] = level.size == found.level.size, np.array_equal(total, found.total)
        whole, box = tuple(slice(lo, hi) for lo, hi in A.part.ranges), found.box.own
        same["part"] = np.array_equal(transfer.part.view(np.int32)[whole], found.part[box])
        for each in ("low", "high"):
            same[each] = np.array_equal(getattr(transfer, each)[:, *whole], getattr(found, each)[:, *box])
        survey = take_survey(A.part, A.fields, has_several_conductances(A.part, A.fields))
        same["survey"] = np.allclose(survey, survey_operator(S, find_cell_bytes(S)), rtol=1e-12)
        differ = comm.allgather([each for each, equal in same.items() if not equal])
        yield {"case": name, "differ": differ, "box": found.box.shape[0], "grid": A.part.size[0], "unknowns": level.n}
