"""Change one import: `scipy.sparse.linalg.cg` becomes `krylearn.solvers.cg`, then the preconditioner joins.

python examples/replace_scipy_cg.py [cells per axis]
"""

import sys

import numpy as np
import scipy.sparse.linalg
from krylearn.pde import Poisson, right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg


def main(size: int = 48) -> None:
    system = scene("obstacles", (size, size, size), seed=31415)
    csr, cells = system.matrix(unknowns=True), system.unknown.numpy()  # what your code assembles: fluid cells only
    b = right_hand_side(system, "divergence", seed=31415).numpy()[cells]

    # 1. What you have.
    counted: list[int] = []
    x, code = scipy.sparse.linalg.cg(csr, b, rtol=1e-8, callback=lambda x: counted.append(1))
    print(f"SciPy, no preconditioner:          info {code}, {len(counted)} iterations")

    # 2. The same call with our cg: same arguments, and an info that says what happened.
    x, info = cg(csr, b, rtol=1e-8)
    print(f"krylearn's cg on the same matrix:  info {int(info)}, {info.iterations} iterations")

    # 3. Say which grid it is, and the learned preconditioner is the default.
    grid = Poisson.from_matrix(csr, shape=(size, size, size), cells=cells)
    x, info = cg(grid, b, rtol=1e-8)
    print(f"krylearn, learned preconditioner:  info {int(info)}, {info.iterations} iterations")

    # 4. Or keep SciPy's cg and hand it the preconditioner.
    counted.clear()
    M = NeuralMultigrid(grid)
    x, code = scipy.sparse.linalg.cg(csr, b, rtol=1e-8, M=M, callback=lambda x: counted.append(1))
    print(f"SciPy's cg, M=NeuralMultigrid(A):  info {code}, {len(counted)} iterations")
    assert np.linalg.norm(b - csr @ x) <= 2e-8 * np.linalg.norm(b)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
