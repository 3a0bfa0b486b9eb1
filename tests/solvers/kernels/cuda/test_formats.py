"""Conductances of the levels in bfloat16: as many iterations, symmetric, definite, in any unit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson, right_hand_side, scene

pytest.importorskip("triton", reason="Triton is for Linux: pip install krylearn[cuda]")

from cuda_cases import DEVICE, hierarchy_as_stored, levels
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels.cuda.formats import LEVEL
from krylearn.solvers.multigrid.hierarchy import Hierarchy, Level, v_cycle
from krylearn.solvers.multigrid.preconditioner import find_rule
from krylearn.solvers.multigrid.setup_cuda.build import hierarchy_cycle
from multigrid_cases import GRIDS, matrix_of, rough

BOTH = (torch.float32, torch.bfloat16)


def stored_levels(A, storage, rule=None):
    """The reference's levels with the numbers that the kernels store, and the exponent of A."""
    h, exponent = levels(A, rule)
    return hierarchy_as_stored(h, hierarchy_cycle(h, storage=storage)), exponent


# six decades, four decades cell by cell, and a medium without contrast
@pytest.mark.parametrize("family", ["inclusions", "cellwise", "free_surface"])
def test_iterations_are_unchanged(family):
    A = scene(family, (16, 15, 17), 90_401).to(DEVICE)
    b = right_hand_side(A.to("cpu"), "white", 90_401).to(DEVICE)
    counts = []
    for storage in BOTH:
        h, _ = stored_levels(A, storage, find_rule(None, 3).to(DEVICE))
        _, info = cg(A, b, M=lambda r, h=h: A.from_grid(v_cycle(h, A.to_grid(r).float()), r), rtol=1e-8)
        assert info == 0
        counts.append(info.iterations)
    assert abs(counts[1] - counts[0]) <= max(1, 0.02 * counts[0])


def widened(t):
    return replace(t, weights=[None if a is None else a.double() for a in t.weights], mask=t.mask.double())


@pytest.mark.parametrize("grid", ["prime_3d", "thread_2d"])
def test_symmetric_and_definite_for_any_network(grid):
    """The numbers that bfloat16 leaves, exactly as they are, in a cycle in fp64: the proof of the reference holds."""
    A = rough(*GRIDS[grid], solid=0.0)
    h, _ = stored_levels(A, torch.bfloat16)
    wide = [Level(v.op.to(torch.float64), v.s.double(), widened(v.transfer)) for v in h.levels]
    h = Hierarchy(wide, h.bottom.to(torch.float64), h.inverse.double())
    for v in h.levels:
        assert float(v.s.max()) < 1.01  # s/diag is rounded, the contraction holds up to 2.46/2
    M = matrix_of(lambda b: v_cycle(h, b), tuple(A.diag.shape))
    assert float((M - M.T).abs().max()) <= 1e-12 * float(M.abs().max())
    assert float(torch.linalg.eigvalsh(0.5 * (M + M.T)).min()) > 0


@pytest.mark.parametrize("factor", [1e-15, 1e12, 2.0**-70])
def test_any_unit(factor):
    kappa = 10 ** np.random.default_rng(90_403).uniform(-3, 3, (9, 10, 7))
    ours, theirs = ([v for v in stored_levels(Poisson.from_coefficients(k), torch.bfloat16)[0].levels] for k in (
        kappa, kappa * factor
    ))  # fmt: skip
    for v, w in zip(ours, theirs, strict=True):
        for a, b in zip(v.op.links, w.op.links, strict=True):
            assert torch.equal(a > 0, b > 0)
            share = (b / torch.where(a > 0, a, 1))[a > 0]
            if factor == 2.0**-70:
                assert (share == 1).all()
            elif share.numel():  # the exponent of A takes up all but a factor of two, and what bfloat16 rounds
                assert 0.49 < float(share.min())
                assert float(share.max()) < 2.02


def test_rows_still_add_up():
    """A constant is in the null space of every level, so a singular system stays one."""
    A = rough((9, 10, 7), {}, solid=0.1)
    h, _ = levels(A)
    for level, v in zip(h.levels, hierarchy_cycle(h, storage=torch.bfloat16).levels, strict=True):
        assert not any(g.any() for g in level.op.ground)
        assert v.op.form == LEVEL
        assert not v.op.arrays[3].any()


def test_what_dtype_means():
    A = scene("lognormal", (12, 13), 90_407)
    with pytest.raises(ValueError, match="on CUDA"):
        NeuralMultigrid(A, dtype=torch.bfloat16, kernels="cpu")
    with pytest.raises(ValueError, match=r"torch\.float32"):
        NeuralMultigrid(A, dtype=torch.float16)
    for dtype, kind in ((None, torch.bfloat16), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)):
        M = NeuralMultigrid(A.to(DEVICE), kernels="triton", weights="geometric", dtype=dtype)
        assert M.fused.levels[0].op.arrays[0].dtype == kind
        assert M.fused.input.dtype == torch.float32
