"""Compile the kernels that a solve uses, once per process and kind of problem, apart from any timed set-up."""

from __future__ import annotations

import time
from functools import cache
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.pde.poisson.components import compile_components

from . import background
from .compile_progress import announced
from .readiness import is_ready, note_ready


def kind_of(A: Any, codes: Any) -> str:
    """Return of which kind an operator is: given as bytes, as arrays that bytes can stand for, or anything else.

    codes : what `find_cell_bytes` says

    Examples
    --------
    >>> A = Poisson.from_coefficients(np.ones((4, 4)))
    >>> kind_of(A, None), kind_of(Poisson.from_cells(np.ones((4, 4))), None)
    ('medium', 'voxels')
    """
    return "voxels" if A.voxels is not None else "medium" if codes is None else "codes"


def tiny(kind: str) -> Poisson:
    """Return a small system of a kind."""
    if kind == "voxels":
        return Poisson.from_cells(np.ones((6, 6, 6)), boundary="dirichlet")
    kappa = torch.ones(6, 6, 6, dtype=torch.float64)
    if kind == "medium":
        kappa[3, 3, 3] = 2.0
    return Poisson.from_coefficients(kappa)


@cache
def compile_kernels(kind: str) -> float:
    """Set up and take two steps on a tiny system; return the seconds, which numba's disk cache makes few.

    Examples
    --------
    >>> compile_kernels("voxels") >= 0.0
    True
    """
    from ..kernels.cpu.cell_bytes import find_cell_bytes
    from ..kernels.cpu.conjugate_gradients import FusedProduct, fused_cg_steps
    from .network import CoefficientNetwork
    from .setup_cpu.build import learned_cycle

    start = time.perf_counter()
    with announced():
        background.wait_for(kind, ("network",))
        background.help_with(kind)
        compile_components(in_bytes=kind == "voxels")
        A, b = tiny(kind), torch.ones(6, 6, 6, dtype=torch.float64)
        fused = learned_cycle(A, 0, CoefficientNetwork(0), coarsest=8, cell_bytes=find_cell_bytes(A))
        M = SimpleNamespace(operator=SimpleNamespace(A=A, fused=fused, exponent=0, mantissa=1.0))
        FusedProduct(A)(b)
        list(islice(fused_cg_steps(SimpleNamespace(operator=A, calls=0), b, torch.zeros_like(b), M), 3))
    note_ready(kind, "network")
    return time.perf_counter() - start


def compile_cycle(kind: str) -> None:
    """Take two steps with a cycle that nothing has set up: what another process compiles while one compiles set-up.

    Examples
    --------
    >>> compile_cycle("voxels")                                         # doctest: +SKIP
    """
    from ..kernels.cpu.cell_bytes import find_cell_bytes
    from ..kernels.cpu.conjugate_gradients import FusedProduct, fused_cg_steps
    from ..kernels.cpu.cycle import FusedCycle, FusedLevel

    A, b = tiny(kind), torch.ones(6, 6, 6, dtype=torch.float64)
    codes, levels, single = find_cell_bytes(A), list[FusedLevel](), np.float32
    for n in (6, 3):
        a, ones = np.zeros((3, n, n, n), np.uint8), np.ones((n, n, n), single)
        links, diag, sd = (np.zeros_like(ones),) * 3, ones, ones
        if codes is not None and n == 6:
            links, diag, sd = codes.links, codes.diag, np.ones((n, n, n), np.uint16)
        levels.append(FusedLevel((2, 2, 2), (False,) * 3, links, diag, sd, a))
    fused = FusedCycle(levels, (2, 2, 2), torch.eye(8))
    M = SimpleNamespace(operator=SimpleNamespace(A=A, fused=fused, exponent=0, mantissa=1.0))
    FusedProduct(A)(b)
    list(islice(fused_cg_steps(SimpleNamespace(operator=A, calls=0), b, torch.zeros_like(b), M), 3))


@cache
def compile_pieces(kind: str, double: bool) -> float:
    """Set up levels of pieces and take two steps on a tiny system; return the seconds.

    double : whether the cycle is in fp64
    """
    from ..kernels.cpu.cell_bytes import find_cell_bytes
    from ..kernels.cpu.conjugate_gradients import FusedProduct, fused_cg_steps
    from .setup_pieces.build import pieces_cycle
    from .setup_pieces.changes import Past
    from .setup_pieces.partition import follow_labels

    start = time.perf_counter()
    with announced():
        if not double and is_ready(kind, ("network",)):  # else that process is not yet at pieces
            background.wait_for(kind, ("pieces",))
        compile_components(in_bytes=kind == "voxels")
        A, b = tiny(kind), torch.ones(6, 6, 6, dtype=torch.float64)
        codes = None if double else find_cell_bytes(A)
        number = np.float64 if double else np.float32
        fused, large = (pieces_cycle(A, 0, 1.0, codes, number, 8, serial) for serial in (1000, 0))
        large(large.input)
        past = Past()
        for _ in range(2):  # a first update, and one that compares
            pieces_cycle(A, 0, 1.0, codes, number, 8, past=past)
        follow_labels(np.zeros(1, np.int32), np.zeros(1, np.int32))  # nothing joins in a uniform medium
        M = SimpleNamespace(operator=SimpleNamespace(A=A, fused=fused, exponent=0, mantissa=1.0))
        FusedProduct(A)(b)
        list(islice(fused_cg_steps(SimpleNamespace(operator=A, calls=0), b, torch.zeros_like(b), M), 3))
    if not double:
        note_ready(kind, "pieces")
    return time.perf_counter() - start


@cache
def compile_survey(kind: str) -> None:
    """Look at a tiny system of a kind."""
    from ..kernels.cpu.cell_bytes import find_cell_bytes
    from .setup_pieces.survey import survey_operator

    with announced():
        background.wait_for(kind, ("survey",))
        A = tiny(kind)
        survey_operator(A, find_cell_bytes(A))
    note_ready(kind, "survey")


def compile_all(kind: str) -> None:
    """Compile whatever the default preconditioner may ask for on operators of a kind.

    Examples
    --------
    >>> compile_all("voxels")                                           # doctest: +SKIP
    """
    compile_survey(kind)
    compile_kernels(kind)
    compile_pieces(kind, False)
    if kind == "medium":  # where pieces are isolated; nobody waits for these
        compile_pieces(kind, True)
