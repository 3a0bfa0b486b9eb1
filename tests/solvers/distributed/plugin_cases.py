"""The PC class on DMDA matrices: periodic and 2D ones, changed operators, identity rows, matrices that it refuses."""

from functools import partial

import numpy as np
from krylearn.pde import Poisson, scene
from krylearn.solvers import cg as serial_cg
from krylearn.solvers.distributed import PC
from petsc4py import PETSc


def dmda(shape, comm, periodic=()):
    """A DMDA, periodic along the axes named."""
    kinds = [d in periodic for d in range(len(shape))]
    facts = {"dof": 1, "stencil_width": 1, "boundary_type": kinds, "stencil_type": "star"}
    return PETSc.DMDA().create(list(shape), **facts, comm=comm)


def natural(da, shape):
    """Number in C order of each local row."""
    ranges = [np.arange(lo, hi) for lo, hi in da.getRanges()]
    numbers = np.arange(np.prod(shape)).reshape(shape)[np.ix_(*ranges)]
    return numbers.transpose(*reversed(range(len(shape)))).ravel()


def distribute(csr, da, shape):
    """Put a SciPy matrix in C order into the DMDA's numbering."""
    mine = natural(da, shape)
    v = da.createGlobalVec()
    v.setArray(mine.astype(float))
    scatter, everything = PETSc.Scatter.toAll(v)
    scatter.scatter(v, everything)
    order = everything.getArray().astype(int)
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    csr = csr.tocsr()[mine]
    csr.indices = position[csr.indices].astype(csr.indices.dtype)
    csr.sort_indices()
    index = PETSc.IntType
    size = ((len(mine), len(order)),) * 2
    parts = csr.indptr.astype(index), csr.indices.astype(index), csr.data
    A = PETSc.Mat().createAIJ(size, csr=parts, comm=da.comm)
    A.setDM(da)
    return A


def solver(A):
    """Conjugate gradients with the plug-in, on the true residual's norm."""
    ksp = PETSc.KSP().create(comm=A.comm)
    ksp.setOperators(A)
    ksp.setType("cg")
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.setTolerances(rtol=1e-8)
    ksp.getPC().setType("python")
    ksp.getPC().setPythonContext(PC())
    ksp.setFromOptions()
    return ksp


def solve(ksp, A, b):
    """Iterations and the true relative residual."""
    x, r = b.duplicate(), b.duplicate()
    ksp.solve(b, x)
    A.mult(x, r)
    r.aypx(-1, b)
    return ksp.getIterationNumber(), r.norm() / b.norm()


def vector(A, da, values, shape):
    """The rows of a rank out of an array over the grid."""
    b = A.createVecLeft()
    b.setArray(values.ravel()[natural(da, shape)])
    return b


def media():
    """Coefficients, boundary and right-hand side by name."""
    rng, found = np.random.default_rng(10133), {}
    for name, shape, periodic in (
        ("flat", (61, 83), ()),
        ("seam", (23, 26, 21), (0, 2)),
        ("torus", (24, 25, 26), (0, 1, 2)),
    ):
        kappa = np.exp(rng.standard_normal(shape))
        boundary = {"xyz"[d]: "periodic" if d in periodic else "dirichlet" for d in range(len(shape))}
        values = rng.standard_normal(shape)
        values -= values.mean() if name == "torus" else 0
        found[name] = Poisson.from_coefficients(kappa, boundary=boundary), values, periodic
    S = scene("obstacles", (24, 22, 20), seed=10169)
    found["identity rows"] = S, rng.standard_normal(S.grid_shape), ()
    return found


def references():
    """Iterations of one process, by case."""

    def solve(S, values):
        values = values * np.asarray(S.unknown).reshape(S.grid_shape)
        return serial_cg(S, values, rtol=1e-8)[1].iterations

    return {name: partial(solve, S, values) for name, (S, values, _) in media().items()}


def lines(comm, references):
    """Solve and refuse."""
    for name, (S, values, periodic) in media().items():
        shape, csr = S.grid_shape, S.matrix().tolil()
        da = dmda(shape, comm, periodic)
        solid = np.flatnonzero(~np.asarray(S.unknown).ravel())
        csr[solid, solid] = 1.0
        A = distribute(csr, da, shape)
        if name == "torus":
            A.setNullSpace(PETSc.NullSpace().create(constant=True, comm=comm))
        ksp = solver(A)
        iterations, residual = solve(ksp, A, vector(A, da, values, shape))
        # a second operator through the same solver: set up again
        A.scale(1.0 if solid.size else 8.0)
        again, _ = solve(ksp, A, vector(A, da, 8 * values, shape))
        ksp.destroy()
        serial = references[name]
        yield {"case": name, "iterations": iterations, "serial": serial, "residual": residual, "again": again}

    shape = (12, 11, 10)
    da = dmda(shape, comm)
    good = Poisson.from_coefficients(np.ones(shape)).matrix().tolil()
    last = np.prod(shape) - 1
    for name, change in (
        ("unsymmetric", (last, last - 1, -2.0)),
        ("stranger", (last, 0, -0.5)),
        ("sign", (last, last, -9.0)),
    ):
        bad = good.copy()
        bad[change[0], change[1]] = change[2]
        A = distribute(bad.tocsr(), da, shape)
        ksp = solver(A)
        try:
            solve(ksp, A, A.createVecLeft())
            message = "accepted"
        except PETSc.Error:
            message = "an error of PETSc"
        except ValueError as error:
            message = str(error)
        ksp.destroy()
        yield {"case": name, "messages": comm.allgather(message)}
