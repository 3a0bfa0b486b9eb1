"""A PETSc program that knows nothing of krylearn: a Poisson problem on a DMDA, after PETSc's KSP tutorial ex45.

-div(rho grad u) = f with rho = 100 in a cube in the middle; u = 0 on the faces z = 0 and z = 1, no flux elsewhere.
Everything else is chosen on the command line. As the tutorial, it leaves its objects to be freed at exit.
"""

import sys

import petsc4py

petsc4py.init(sys.argv)
import numpy as np  # noqa: E402
from petsc4py import PETSc  # noqa: E402

options = PETSc.Options()
n = options.getInt("n", 24)
da = PETSc.DMDA().create([n, n + 1, n - 1], stencil_width=1)
da.setFromOptions()
A = da.createMatrix()
A.setOption(PETSc.Mat.Option.NEW_NONZERO_ALLOCATION_ERR, False)
size = da.getSizes()
(xs, xe), (ys, ye), (zs, ze) = da.getRanges()


def density(i, j, k):
    """100 in the middle."""
    inside = all(size[d] / 3 <= at < 2 * size[d] / 3 for d, at in enumerate((i, j, k)))
    return 100.0 if inside else 1.0


row, col = PETSc.Mat.Stencil(), PETSc.Mat.Stencil()
for k in range(zs, ze):
    for j in range(ys, ye):
        for i in range(xs, xe):
            row.index, diagonal, own = (i, j, k), 0.0, density(i, j, k)
            for d in range(3):
                for step in (-1, 1):
                    at = [i, j, k]
                    at[d] += step
                    if 0 <= at[d] < size[d]:
                        other = density(*at)
                        w = 2 * own * other / (own + other)
                        col.index = tuple(at)
                        A.setValueStencil(row, col, -w)
                        diagonal += w
                    elif d == 2:
                        diagonal += 2 * own
            A.setValueStencil(row, row, diagonal)
A.assemble()
ksp = PETSc.KSP().create()
ksp.setDM(da)
ksp.setDMActive(False)
ksp.setOperators(A)
ksp.setFromOptions()
b = da.createGlobalVec()
da.getVecArray(b)[:] = np.cos(np.arange(xs, xe))[:, None, None] * np.ones((xe - xs, ye - ys, ze - zs))
x = b.duplicate()
ksp.solve(b, x)
r = b.duplicate()
A.mult(x, r)
r.aypx(-1, b)
residual, solution, right = r.norm(), x.norm(), b.norm()
if PETSc.COMM_WORLD.rank == 0:
    print(
        f'{{"iterations": {ksp.getIterationNumber()}, "reason": {ksp.getConvergedReason()}, '
        f'"residual": {residual / right}, "norm": {solution!r}}}'
    )
