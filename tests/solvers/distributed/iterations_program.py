"""Run by `mpirun -n N`: solve every case on N ranks and, on rank 0, by one process; print one JSON line per case."""

import json
import sys

import numpy as np
from krylearn.pde import Poisson, scene
from krylearn.solvers import NeuralMultigrid, cg as serial_cg
from krylearn.solvers.distributed import DistributedMultigrid, DistributedPoisson, Partition, cg


def graded(shape):
    """A mesh whose cells grow from the middle by a factor up to 3 along two axes."""
    h = [1 + 2 * np.abs(np.linspace(-1, 1, n)) ** 2 for n in shape[:2]] + [np.ones(shape[2])]
    faces = []
    for d in range(3):
        others = [h[e] if e != d else np.ones(shape[d] + 1) for e in range(3)]
        distance = np.concatenate([h[d][:1] / 2, (h[d][1:] + h[d][:-1]) / 2, h[d][-1:] / 2])
        others[d] = 1 / distance
        faces.append(np.einsum("i,j,k->ijk", *others))
    return Poisson.from_faces(faces)


def spanning(shape):
    """Two closed boxes, one of them with a cut that no rank sees whole, and a third one that is earthed."""
    cells = np.ones(shape)
    cells[:, shape[1] // 3] = 0
    cells[:, 2 * shape[1] // 3] = 0
    cells[2, -4:, 3] = 2
    return Poisson.from_cells(cells)


def cuts_of(shape, size):
    """Unaligned cuts along the first axis, an empty part among them if there are more than two."""
    n = shape[0]
    inner = sorted({3: [7, 7], 4: [5, 5, n - 3], 8: [3, 3, 8, 9, 14, 20, 21]}.get(size, [n // 3 + 1] * (size - 1)))
    return [[0, *inner, n], *([0, m] for m in shape[1:])]


CASES = {
    "obstacles": (lambda: scene("obstacles", (24, 24, 24), seed=10007), "default"),
    "free_surface": (lambda: scene("free_surface", (27, 25, 22), seed=10009), "default"),
    "free_surface_cuts": (lambda: scene("free_surface", (27, 25, 22), seed=10009), "cuts"),
    "lognormal": (lambda: scene("lognormal", (26, 24, 24), seed=10037), "default"),
    "mazes": (lambda: scene("mazes", (24, 24, 24), seed=10039), "default"),
    "graded": (lambda: graded((31, 24, 18)), "default"),
    "graded_cuts": (lambda: graded((31, 24, 18)), "cuts"),
    "periodic": (lambda: scene("periodic", (25, 23, 24), seed=10061), "default"),
    "anisotropic": (lambda: scene("anisotropic", (24, 20, 28), seed=10067), "default"),
    "neumann": (lambda: scene("neumann", (24, 25, 24), seed=10069), "default"),
    "spanning": (lambda: spanning((26, 24, 22)), "cuts"),
    "flat": (lambda: scene("lognormal", (121, 97), seed=10079), "default"),
    "flat_periodic": (lambda: scene("periodic", (101, 120), seed=10091), "default"),
}


def main():
    """Solve, compare, print."""
    gather = int(sys.argv[1])
    routes = sys.argv[2].split(",")
    for name, (build, cutting) in CASES.items():
        S = build()
        part = Partition(S.grid_shape)
        if cutting == "cuts":
            part = Partition(S.grid_shape, cuts=cuts_of(S.grid_shape, part.comm.size))
        b = np.random.default_rng(10099).standard_normal(S.grid_shape)
        b = S.from_grid(S.nullspace.project(S.to_grid(b)), b)
        facts = {}
        if part.comm.rank == 0:
            M = NeuralMultigrid(S, "network")
            x, info = serial_cg(S, b, rtol=1e-8, M=M)
            fine, _ = serial_cg(S, b, rtol=1e-13, M=M)
            facts = {"serial": info.iterations, "dimension": S.nullspace.dimension, "product": S @ b}
        x, fine, facts = part.comm.bcast((x, fine, facts) if part.comm.rank == 0 else None)
        A = DistributedPoisson.from_operator(S, part)
        for route in routes:
            M = DistributedMultigrid(A, route=route, gather=gather)
            y, info = cg(A, b[part.own], rtol=1e-8, M=M)
            close, _ = cg(A, b[part.own], rtol=1e-13, M=M)
            u, v = (np.random.default_rng(s).standard_normal(S.grid_shape)[part.own] for s in (10103, 10111))
            uv, vu, uu = part.comm.allreduce(np.array([np.vdot(u, M @ v), np.vdot(v, M @ u), np.vdot(u, M @ u)]))
            r = b[part.own] - A @ y
            sums = part.comm.allreduce(
                np.array(
                    [
                        np.vdot(close - fine[part.own], close - fine[part.own]),
                        np.vdot(fine[part.own], fine[part.own]),
                        np.vdot(r, r),
                        np.vdot(b[part.own], b[part.own]),
                    ]
                )
            )
            gap = part.comm.allreduce(float(np.abs(A @ b[part.own] - facts["product"][part.own]).max(initial=0)))
            line = {
                "case": name,
                "route": route,
                "ranks": part.comm.size,
                "iterations": info.iterations,
                "serial": facts["serial"],
                "converged": int(info) == 0,
                "difference": float(np.sqrt(sums[0] / sums[1])),
                "residual": float(np.sqrt(sums[2] / sums[3])),
                "told": info.true_residual / float(np.sqrt(sums[3])),
                "product": gap / float(np.abs(facts["product"]).max()),
                "dimension": [info.nullspace, facts["dimension"]],
                "asymmetry": float(abs(uv - vu) / uu),
                "definite": bool(uu > 0),
            }
            if part.comm.rank == 0:
                print(json.dumps(line), flush=True)


main()
