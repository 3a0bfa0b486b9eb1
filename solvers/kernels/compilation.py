"""Compile every kernel that a solve uses, once per process, apart from any timed set-up."""

from __future__ import annotations

import time
from functools import cache
from itertools import islice
from types import SimpleNamespace

import torch
from krylearn.pde import Poisson
from krylearn.pde.components import compile_components


@cache
def compile_kernels() -> float:
    """Set up and take two steps on two tiny systems; return the seconds, which numba's disk cache makes few.

    Examples
    --------
    >>> compile_kernels() >= 0.0
    True
    """
    from ..coefficients import CoefficientNetwork
    from .codes import codes_of
    from .fused_cg import fused_cg_steps, fused_product
    from .learned import learned_cycle

    start = time.perf_counter()
    compile_components()
    kappa = torch.ones(6, 6, 6, dtype=torch.float64)
    b = torch.ones(6, 6, 6, dtype=torch.float64)
    for centre in (1.0, 2.0):  # of cell type, then general: other types of arrays
        kappa[3, 3, 3] = centre
        A = Poisson.from_coefficients(kappa)
        fused = learned_cycle(A, 0, CoefficientNetwork(0), coarsest=8, codes=codes_of(A))
        product = fused_product(A)
        counted = SimpleNamespace(operator=A, calls=0)
        M = SimpleNamespace(operator=SimpleNamespace(A=A, fused=fused, exponent=0, mantissa=1.0))
        product(b)
        list(islice(fused_cg_steps(counted, b, torch.zeros_like(b), M), 3))
    return time.perf_counter() - start
