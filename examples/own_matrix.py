"""A matrix out of existing code, in files: recognise it, solve it, and see what is said about one that does not fit.

python examples/own_matrix.py [cells per axis]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from krylearn.bench.cli import main as krylearn
from krylearn.pde import Poisson
from krylearn.solvers import cg


def five_point(n: int) -> sp.csr_array:
    """The matrix of a 2D code that numbers x fastest and has fixed values on all sides."""
    line = sp.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    one = sp.eye_array(n)
    return sp.csr_array(sp.kron(one, line) + sp.kron(line, one))


def main(size: int = 128) -> None:
    matrix, b = five_point(size), np.ones(size * size)

    A = Poisson.from_matrix(matrix, shape=(size, size), order="F")
    x, info = cg(A, b, rtol=1e-10)
    print(f"{A}\n{info}")
    assert info == 0

    # The same from the shell: krylearn solve A.npz b.npy --shape N N --order F -o x.npy
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("A.npz", "b.npy", "x.npy")]
        sp.save_npz(files[0], matrix)
        np.save(files[1], b)
        shape = [str(size), str(size)]
        code = krylearn(["solve", *files[:2], "--shape", *shape, "--order", "F", "--rtol", "1e-10", "-o", files[2]])
        assert code == 0
        assert np.allclose(np.load(files[2]), x)

    # A matrix outside the class is refused, with the row and the remedy.
    upwind = matrix.copy()
    upwind[1, 0] -= 0.5
    try:
        Poisson.from_matrix(upwind, shape=(size, size), order="F")
    except ValueError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
