"""A simulation that moves its obstacle: one preconditioner, set up again at every step.

python examples/moving_obstacle.py [cells per axis] [steps]
"""

import sys

from krylearn.pde import Poisson
from krylearn.pde.simulations.smoke import SmokePlume
from krylearn.solvers import NeuralMultigrid, cg


class Pressure:
    """The pressure solver of a time loop."""

    def __init__(self) -> None:
        self.M = None

    def __call__(self, A: Poisson, b):
        self.M = NeuralMultigrid(A) if self.M is None else self.M.update(A)
        p, info = cg(A, b, rtol=1e-6, M=self.M, strict=True)  # strict: raise if it does not converge
        print(f"{A.unknowns:,} unknowns, set-up {self.M.setup_seconds:.3f} s, {info.iterations} iterations")
        return p


def main(size: int = 40, steps: int = 10) -> None:
    plume = SmokePlume((size, size, size))
    for frame in plume.frames(steps, Pressure()):
        print(f"  t = {frame.time:.2f} s, smoke in {int((frame.smoke > 0.1).sum()):,} cells")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
