"""Set-up by Triton kernels gives the levels of the reference, rounding apart: cell-type and general, all boundaries."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux: pip install krylearn[cuda]")

from cuda_cases import DEVICE, SYSTEMS, kernel_level, levels
from krylearn.solvers.kernels.cuda.formats import LEVEL, TABLE, cell_codes
from krylearn.solvers.multigrid.setup_cuda import build as cuda_setup
from multigrid_cases import random_network


def unpacked(v):
    """Damping and weights of a level in units of 1/255, whatever form it has; links, and extra if stored."""
    if v.op.form == TABLE:
        ids, conductance, table, sd, _ = v.op.arrays
        ids = ids.long()
        code = table[ids]
        n = code >> 6
        diag = sum(c * (n // 5**d % 5) for d, c in enumerate(conductance))
        a = torch.stack([v.a[ids] >> (8 * d) & 255 for d in range(3)])
        return 255 * sd[ids] * diag, a, [(code >> (2 * d) & 1) * conductance[d] for d in range(3)]
    x, y, z, extra, sd = (t.float() for t in v.op.arrays)
    diag = extra + sum(w + torch.roll(w, 1, d) for d, w in enumerate((x, y, z)))
    return 255 * sd * diag, v.a.int(), [x, y, z, extra]


def same(ours, theirs):
    """Damping and weights within one unit, almost all equal; links to rounding."""
    for mine, reference in zip(unpacked(ours)[:2], unpacked(theirs)[:2], strict=True):
        apart = (mine.float() - reference.float()).abs()
        assert apart.max() < 1.5
        assert (apart > 0.5).float().mean() < 0.01
    for mine, reference in zip(unpacked(ours)[2], unpacked(theirs)[2], strict=True):
        torch.testing.assert_close(mine, reference, rtol=3e-5, atol=1e-7)


@pytest.mark.parametrize("form", sorted(SYSTEMS))
@pytest.mark.parametrize("grid", ["prime_3d", "odd_3d", "flat_middle", "thread_2d"])
def test_levels_of_the_reference(grid, form):
    levels_of_the_reference(grid, form, random_network(90_011))


def test_constants_are_a_network_too():
    levels_of_the_reference("odd_3d", "stored", random_network(90_019, hidden=0))


def test_a_narrow_network():
    levels_of_the_reference("even_2d", "stored", random_network(90_023, hidden=5))


def levels_of_the_reference(grid, form, network):
    network = network.to(DEVICE)
    A = SYSTEMS[form](grid).to(DEVICE)
    h, exponent = levels(A, network)
    cycle = cuda_setup.network_cycle(A, exponent, network, torch.float32)
    assert [v.size for v in cycle.levels] == [v.op.size for v in h.levels]
    codes = cell_codes(A)
    for l, (ours, level) in enumerate(zip(cycle.levels, h.levels, strict=True)):
        theirs = kernel_level(level, torch.float32, None if l else codes, exponent)
        assert ours.op.form == (LEVEL if l or codes is None else TABLE)
        assert ours.factors == theirs.factors
        same(ours, theirs)
    scale = h.inverse.abs().max()
    torch.testing.assert_close(cycle.inverse / scale, h.inverse / scale, rtol=0, atol=1e-3)
