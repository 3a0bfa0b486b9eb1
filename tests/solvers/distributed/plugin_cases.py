"""The PC class on DMDA matrices: periodic and 2D ones, changed operators, identity rows, matrices that it refuses."""

import json

import numpy as np
from krylearn.pde import Poisson, scene
from krylearn.solvers import NeuralMultigrid, cg as serial_cg
from krylearn.solvers.distributed import PC
from petsc4py import PETSc

rank = PETSc.COMM_WORLD.rank


def dmda(shape, periodic=()):
    """A DMDA, periodic along the axes named."""
    kinds = [d in periodic for d in range(len(shape))]
    return PETSc.DMDA().create(list(shape), dof=1, stencil_width=1, boundary_type=kinds, stencil_type="star")


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
    A = PETSc.Mat().createAIJ(size, csr=(csr.indptr.astype(index), csr.indices.astype(index), csr.data))
    A.setDM(da)
    return A


def solver(A):
    """Conjugate gradients with the plug-in, on the true residual's norm."""
    ksp = PETSc.KSP().create()
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


def tell(**facts):
    """Print a line on rank 0."""
    if rank == 0:
        print(json.dumps(facts), flush=True)


def vector(A, da, values, shape):
    """The rows of a rank out of an array over the grid."""
    b = A.createVecLeft()
    b.setArray(values.ravel()[natural(da, shape)])
    return b


def main():
    """Solve, refuse, print."""
    rng = np.random.default_rng(10133)
    for name, shape, periodic in (
        ("flat", (61, 83), ()),
        ("seam", (23, 26, 21), (0, 2)),
        ("torus", (24, 25, 26), (0, 1, 2)),
    ):
        kappa = np.exp(rng.standard_normal(shape))
        boundary = {"xyz"[d]: "periodic" if d in periodic else "dirichlet" for d in range(len(shape))}
        S = Poisson.from_coefficients(kappa, boundary=boundary)
        values = rng.standard_normal(shape)
        values -= values.mean() if name == "torus" else 0
        da = dmda(shape, periodic)
        A = distribute(S.matrix(), da, shape)
        if name == "torus":
            A.setNullSpace(PETSc.NullSpace().create(constant=True))
        _, info = serial_cg(S, values, rtol=1e-8, M=NeuralMultigrid(S, "network"))
        ksp = solver(A)
        iterations, residual = solve(ksp, A, vector(A, da, values, shape))
        # a second operator through the same solver: set up again
        A.scale(8.0)
        again, _ = solve(ksp, A, vector(A, da, 8 * values, shape))
        tell(case=name, iterations=iterations, serial=info.iterations, residual=residual, again=again)

    shape = (24, 22, 20)
    da = dmda(shape)
    S = scene("obstacles", shape, seed=10169)
    csr = S.matrix().tolil()
    solid = np.flatnonzero(~np.asarray(S.unknown).ravel())
    csr[solid, solid] = 1.0
    A = distribute(csr, da, shape)
    values = rng.standard_normal(shape)
    _, info = serial_cg(S, values * np.asarray(S.unknown).reshape(shape), rtol=1e-8, M=NeuralMultigrid(S, "network"))
    iterations, residual = solve(solver(A), A, vector(A, da, values, shape))
    tell(case="identity rows", iterations=iterations, serial=info.iterations, residual=residual, again=iterations)

    shape = (12, 11, 10)
    da = dmda(shape)
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
        try:
            solve(solver(A), A, A.createVecLeft())
            message = "accepted"
        except PETSc.Error:
            message = "an error of PETSc"
        except ValueError as error:
            message = str(error)
        messages = PETSc.COMM_WORLD.tompi4py().gather(message)
        tell(case=name, messages=messages)
