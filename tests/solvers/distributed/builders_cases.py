"""The builders from own parts give the operator that one process builds; one line per system."""

import numpy as np
from krylearn.pde import Poisson
from krylearn.solvers.distributed import DistributedMultigrid, DistributedPoisson, Partition, cg

rng = np.random.default_rng(10151)
shape = (17, 14, 15)
kappa = np.exp(rng.standard_normal(shape))
kappa[3:9, 4, 2:8] = 0
cells = np.where(rng.random(shape) < 0.15, 0, 1)
cells[..., -3:][rng.random((*shape[:2], 3)) < 0.5] = 2
shift = rng.random(shape)
graded = [1.0, np.linspace(1, 3, 14), 0.5]
faces = [rng.random(tuple(n + (d == axis) for d, n in enumerate(shape))) for axis in range(3)]
wrapped = [w.copy() for w in faces]
wrapped[1][:, -1] = wrapped[1][:, 0]
flat = np.exp(rng.standard_normal((33, 26)))


def own_faces(arrays, part):
    """All faces of own cells."""
    return [
        w[tuple(slice(s.start, s.stop + (d == axis)) for d, s in enumerate(part.own))] for axis, w in enumerate(arrays)
    ]


mixed = {"x": "periodic", "y-": "dirichlet", "y+": "neumann", "z": "dirichlet"}
P, D = Poisson, DistributedPoisson
CASES = {
    "cells": (
        lambda: P.from_cells(cells, 0.5, "dirichlet", shift=2.0),
        lambda p: D.from_cells(cells[p.own], p, 0.5, "dirichlet", shift=2.0),
    ),
    "coefficients": (
        lambda: P.from_coefficients(kappa, (1.0, 2.0, 0.5), mixed, shift),
        lambda p: D.from_coefficients(kappa[p.own], p, (1.0, 2.0, 0.5), mixed, shift[p.own]),
    ),
    "graded": (
        lambda: P.from_coefficients(kappa, graded, "dirichlet", shift),
        lambda p: D.from_coefficients(kappa[p.own], p, graded, "dirichlet", shift[p.own]),
    ),
    "cells in a medium": (
        lambda: P.from_coefficients(kappa + 0.1, cells=cells, boundary="periodic"),
        lambda p: D.from_coefficients(kappa[p.own] + 0.1, p, cells=cells[p.own], boundary="periodic"),
    ),
    "faces": (lambda: P.from_faces(faces, shift), lambda p: D.from_faces(own_faces(faces, p), p, shift[p.own])),
    "wrapped faces": (
        lambda: P.from_faces(wrapped, boundary={"y": "periodic"}),
        lambda p: D.from_faces(own_faces(wrapped, p), p, boundary={"y": "periodic"}),
    ),
    "flat": (
        lambda: P.from_coefficients(flat, (1.0, 0.5), {"x": "periodic"}),
        lambda p: D.from_coefficients(flat[p.own], p, (1.0, 0.5), {"x": "periodic"}),
    ),
}


def references():
    """None: operators are compared where they are built."""
    return {}


def lines(comm, references):
    """Compare and solve."""
    for name, (serial, distributed) in CASES.items():
        S = serial()
        part = Partition(S.grid_shape, comm)
        A = distributed(part)
        x = np.random.default_rng(10159).standard_normal(S.grid_shape)
        gap = np.abs(A @ x[part.own] - (S @ x)[part.own]).max(initial=0) / np.abs(S @ x).max()
        source = np.abs(A.rhs(x[part.own]) - np.asarray(S.rhs(x))[part.own]).max(initial=0)
        M = DistributedMultigrid(A, gather=500)
        b = A @ x[part.own]
        _, one = cg(A, b, rtol=1e-8, M=M)
        _, two = cg(A, b, rtol=1e-8, M=M.update(A))
        _, plain = cg(A, b, rtol=1e-2, M="none")
        _, few = cg(A, b, rtol=1e-8, M=M, maxiter=2)
        _, none = cg(A, 0 * b, M=M)
        gap, source = comm.allreduce(np.array([gap, source]))
        M.destroy()
        yield {
            "case": name,
            "gap": gap,
            "rhs": source,
            "unknowns": [A.unknowns, S.unknowns],
            "iterations": [one.iterations, two.iterations, plain.iterations],
            "converged": [int(one), int(two), int(plain)],
            "few": [few.reason.name, few.iterations, int(few)],
            "zero": [int(none), none.iterations],
        }

    # b with a part in the null space
    part = Partition((12, 11, 13), comm)
    A = D.from_cells(np.ones(part.own_shape), part)
    x, info = cg(A, np.ones(part.own_shape))
    yield {"case": "incompatible", "reason": info.reason.name, "value": int(info)}

    # a part of the wrong shape on one rank
    wrong = np.ones((3, 8, 8) if comm.rank == comm.size - 1 else part.own_shape)
    try:
        D.from_coefficients(wrong, part)
        message = "accepted"
    except ValueError as error:
        message = str(error)
    yield {"case": "wrong part", "messages": comm.allgather(message)}
