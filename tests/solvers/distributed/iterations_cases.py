"""Every system by one process and on the ranks of a communicator; one line per case and route."""

import math
from functools import partial

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


CASES = {  # system, partition, cells from which on a level is gathered, weights
    "obstacles": (lambda: scene("obstacles", (24, 24, 24), seed=10007), "default", 1000, None),
    "free_surface": (lambda: scene("free_surface", (27, 25, 22), seed=10009), "default", 1000, None),
    "free_surface_cuts": (lambda: scene("free_surface", (27, 25, 22), seed=10009), "cuts", 1000, None),
    "lognormal": (lambda: scene("lognormal", (26, 24, 24), seed=10037), "default", 1000, None),
    "lognormal_few_gathered": (lambda: scene("lognormal", (26, 24, 24), seed=10037), "default", 128, None),
    "lognormal_all_gathered": (lambda: scene("lognormal", (26, 24, 24), seed=10037), "default", 10**6, None),
    "mazes": (lambda: scene("mazes", (24, 34, 24), seed=10039), "default", 500, None),
    "mazes_grids": (lambda: scene("mazes", (20, 18, 18), seed=10039), "default", 500, "network"),
    "mazes_cuts": (lambda: scene("mazes", (26, 18, 18), seed=10039), "cuts", 500, "pieces"),
    "graded": (lambda: graded((31, 24, 18)), "default", 1000, "pieces"),
    "graded_grids": (lambda: graded((31, 24, 18)), "default", 1000, "network"),
    "graded_cuts": (lambda: graded((31, 24, 18)), "cuts", 1000, "pieces"),
    "graded_grids_cuts": (lambda: graded((31, 24, 18)), "cuts", 1000, "network"),
    "periodic": (lambda: scene("periodic", (25, 23, 24), seed=10061), "default", 1000, None),
    "periodic_pieces": (lambda: scene("periodic", (25, 23, 24), seed=10061), "default", 1000, "pieces"),
    "anisotropic": (lambda: scene("anisotropic", (24, 20, 28), seed=10067), "default", 1000, None),
    "neumann": (lambda: scene("neumann", (24, 25, 24), seed=10069), "default", 1000, None),
    "spanning": (lambda: spanning((26, 24, 22)), "cuts", 1000, None),
    "spanning_grids": (lambda: spanning((26, 24, 22)), "cuts", 1000, "network"),
    "flat": (lambda: scene("lognormal", (121, 97), seed=10079), "default", 1000, None),
    "flat_pieces": (lambda: scene("lognormal", (121, 97), seed=10079), "default", 1000, "pieces"),
    "flat_periodic": (lambda: scene("periodic", (101, 120), seed=10091), "default", 1000, None),
}
ROUTES = ("ghosted", "assembled")


def steps_to(info, tolerance):
    """Iterations after which the residuals of a solve were first at most `tolerance`."""
    return int(np.argmax(np.asarray(info.residuals) <= tolerance))


def sum_over(part, *pairs):
    """Inner products over all ranks."""
    return part.comm.allreduce(np.array([np.vdot(u, v) for u, v in pairs]))


def right_side(S):
    """A right-hand side in the range of an operator."""
    b = np.random.default_rng(10099).standard_normal(S.grid_shape)
    return S.from_grid(S.nullspace.project(S.to_grid(b)), b)


def references():
    """What one process finds, by case: x, A b, dimension of the null space, iterations to 1e-8 and 1e-12, levels."""

    def solve(build, weights):
        S = build()
        b = right_side(S)
        M = NeuralMultigrid(S, weights)
        if M.uses_pieces:  # on several ranks these are smoothed by the steps of the rule
            M = NeuralMultigrid(S, "untrained pieces")
        x, info = serial_cg(S, b, rtol=1e-12, M=M)
        iterations = [steps_to(info, 1e-8 * float(np.linalg.norm(b))), info.iterations]
        return x, S @ b, S.nullspace.dimension, iterations, bool(M.uses_pieces)

    return {name: partial(solve, build, weights) for name, (build, _, _, weights) in CASES.items()}


def lines(comm, references):
    """Solve and compare: one solve to 1e-12, whose history tells the iterations to 1e-8 too."""
    for name, (build, cutting, gather, weights) in CASES.items():
        S = build()
        cuts = cuts_of(S.grid_shape, comm.size) if cutting == "cuts" else None
        part = Partition(S.grid_shape, comm, cuts=cuts)
        b = right_side(S)
        norm = float(np.linalg.norm(b))
        x, product, dimension, serial, pieces = references[name]
        x, product, own_b = x[part.own], product[part.own], b[part.own]
        u, v = (np.random.default_rng(s).standard_normal(S.grid_shape)[part.own] for s in (10103, 10111))
        A = DistributedPoisson.from_operator(S, part)
        for route in ROUTES:
            M = DistributedMultigrid(A, weights, route=route, gather=gather)
            y, info = cg(A, own_b, rtol=1e-12, M=M)
            m_u, m_v, r, gap = M @ u, M @ v, own_b - A @ y, A @ own_b - product
            uv, vu, uu, dd, xx, rr, pp, gg = sum_over(
                part, (u, m_v), (v, m_u), (u, m_u), (y - x, y - x), (x, x), (r, r), (product, product), (gap, gap)
            )
            uses_pieces = M.uses_pieces
            M.destroy()
            yield {
                "case": name,
                "route": route,
                "ranks": comm.size,
                "iterations": [steps_to(info, 1e-8 * norm), info.iterations],
                "serial": serial,
                "pieces": [uses_pieces, pieces],
                "converged": int(info) == 0,
                "difference": math.sqrt(dd / xx),
                "residual": math.sqrt(rr) / norm,
                "told": info.true_residual / norm,
                "product": math.sqrt(gg / pp),
                "dimension": [info.nullspace, dimension],
                "asymmetry": abs(uv - vu) / uu,
                "definite": bool(uu > 0),
            }
