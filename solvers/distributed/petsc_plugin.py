"""`PC`: the learned multigrid for programs that already use PETSc, chosen by options alone.

``-pc_type python -pc_python_type krylearn.solvers.distributed.PC`` in any program, also in C or Fortran with a PETSc
that embeds Python, whose matrix is the 5-point or 7-point AIJ matrix of a DMDA. Options, after the solver's prefix:

    -krylearn_route ghosted | assembled     krylearn's kernels (default), or PCMG over assembled matrices
    -krylearn_gather N                      levels of at most N cells on every rank
    -krylearn_weights NAME                  network, pieces, geometric, resistor, tuned or a file
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .partition import to_rank_order
from .petsc_library import detach_at_exit, forget, load_petsc
from .preconditioner import GATHER, ROUTES, build_cycle, rule_of
from .recognise import partition_of, recognise


class PC:
    """The context of a preconditioner of type python. PETSc makes it, and calls these methods.

    The matrix must belong to a DMDA: `KSPSetDM` (with `KSPSetDMActive(ksp, PETSC_FALSE)` where the program sets its own
    operators) or `MatSetDM`. Set-up runs again whenever the operators have changed.
    """

    def __init__(self) -> None:
        self.cycle: Any = None
        self.options: dict[str, Any] = {"route": ROUTES[0], "gather": GATHER, "weights": None}
        self.setup_seconds = 0.0

    def setFromOptions(self, pc: Any) -> None:  # noqa: N802  the name that PETSc calls
        """Read the options database."""
        options = load_petsc().Options(pc.getOptionsPrefix())
        route = options.getString("krylearn_route", self.options["route"])
        if route not in ROUTES:
            raise ValueError(f"got -krylearn_route {route}; expected one of {', '.join(ROUTES)}")
        weights = options.getString("krylearn_weights", "") or None
        gather = options.getInt("krylearn_gather", self.options["gather"])
        self.options = {"route": route, "gather": gather, "weights": weights}

    def setUp(self, pc: Any) -> None:  # noqa: N802
        """Recognise the matrix and set up the cycle."""
        start = time.perf_counter()
        self._free()
        detach_at_exit(pc, self)
        _, matrix = pc.getOperators()
        part = partition_of(_grid_of(pc, matrix))
        fields, diag = recognise(matrix, part)
        self.size, self.unknowns = part.size, int(part.comm.allreduce(int(fields.unknown.sum())))
        # rows that couple to nothing and are no unknowns are equations all the same
        self.alone = np.flatnonzero(to_rank_order((diag > 0) & ~fields.unknown))
        self.inverse = 1.0 / to_rank_order(diag)[self.alone]
        known = np.where(fields.unknown, diag, 0.0)
        rule = rule_of(self.options["weights"], len(part.grid_shape))
        choice = rule, self.options["weights"] is None, self.options["route"], self.options["gather"]
        self.cycle = build_cycle(part, fields, known, lambda: matrix, *choice)
        self.setup_seconds = time.perf_counter() - start

    def apply(self, pc: Any, r: Any, z: Any) -> None:
        """Compute z = M r."""
        self.cycle.apply(r, z)
        if self.alone.size:
            z.getArray()[self.alone] = r.getArray(readonly=True)[self.alone] * self.inverse

    applyTranspose = apply  # noqa: N815  M is symmetric

    def view(self, pc: Any, viewer: Any) -> None:
        """Say what this is, for -ksp_view."""
        weights = self.options["weights"] or "chosen by a look at the operator"
        viewer.printfASCII(f"  krylearn NeuralMultigrid, route {self.options['route']}, weights: {weights}\n")
        if self.cycle is not None:
            size = " x ".join(map(str, self.size))
            viewer.printfASCII(f"  grid {size}, {self.unknowns} unknowns, set-up {self.setup_seconds:.3g} s\n")
            self.cycle.view(viewer)

    def destroy(self, pc: Any = None) -> None:
        """Free PETSc's memory."""
        forget(self)
        self._free()

    def _free(self) -> None:
        if self.cycle is not None:
            self.cycle.destroy()
            self.cycle = None


def _grid_of(pc: Any, matrix: Any) -> Any:
    """Return the DMDA of a preconditioner or of its matrix."""
    PETSc = load_petsc()
    for owner in (pc, matrix):
        dm = owner.getDM()
        if dm and dm.getType() == PETSc.DM.Type.DA:
            return dm if isinstance(dm, PETSc.DMDA) else PETSc.DMDA(dm)
    raise ValueError(
        "got a matrix without a DMDA; expected one that tells the grid: call KSPSetDM(ksp, da), and "
        "KSPSetDMActive(ksp, PETSC_FALSE) if the program sets its own operators"
    )
