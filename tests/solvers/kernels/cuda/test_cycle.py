"""Every Triton kernel equals the reference: odd, prime, flat and long grids, all boundaries, in 2D and 3D."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux: pip install krylearn[cuda]")

from cuda_cases import (
    DEVICE,
    GO,
    SYSTEMS,
    cell_system,
    close,
    finest,
    hierarchy_as_stored,
    kernel_level,
    levels,
    stored,
    vector,
)
from krylearn.pde import Poisson
from krylearn.solvers.kernels import reference
from krylearn.solvers.kernels.cuda import launch, smoothing as cuda, transfer as cuda_transfer, vectors as cuda_vectors
from krylearn.solvers.kernels.cuda.formats import CODES, LEVEL, STORED, TABLE, Couplings, cell_codes, couplings_of
from krylearn.solvers.kernels.cuda.level import diagonal_of
from krylearn.solvers.kernels.reference import OMEGA, Transfer
from krylearn.solvers.multigrid.hierarchy import v_cycle
from krylearn.solvers.multigrid.setup_cuda.build import hierarchy_cycle
from multigrid_cases import GRIDS, grid_system

FORMS = sorted(SYSTEMS)
EXACT = {torch.float32: 1e-5, torch.float64: 1e-13}


@pytest.fixture
def small_tiles(monkeypatch):
    """Many programs per grid, whose tiles divide nothing evenly."""
    monkeypatch.setattr(
        launch, "tile_shape", lambda size, cells=0: (16, min(4, launch.triton.next_power_of_2(size[2])))
    )
    monkeypatch.setattr(cuda_vectors, "BLOCK", 64)


def system(form, grid):
    return SYSTEMS[form](grid).to(DEVICE)


@pytest.mark.parametrize("dtype", EXACT, ids=["fp32", "fp64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_product_and_its_dot(grid, form, dtype, small_tiles):
    A = system(form, grid)
    op = couplings_of(A, dtype)
    assert op.form == (CODES if form == "cells" else STORED)
    x, y, sums = vector(op.size, dtype=dtype), vector(op.size, 1, dtype), launch.new_sums(op.size, A.device)
    cuda.apply_dot(op, x, y, sums, GO)
    expected = A.to(dtype=torch.float64).apply(x.double())
    close(y, expected, EXACT[dtype])
    close(sums.sum(), (x.double() * y.double()).sum(), 1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_kernel_of_a_level(grid, form):
    level, v = finest(system(form, grid))
    op, s, t, mask = level.op, level.s, level.transfer, level.op.mask
    assert v.op.form == (TABLE if form == "cells" else LEVEL)
    r = vector(v.size)
    cuda.relax(v.op, r, v.r, OMEGA[1], GO)
    close(v.r, (r - OMEGA[1] * reference.apply(op, s * op.inv * r)) * mask)
    r = r * mask
    expected = reference.restrict(t, r)
    coarse = torch.full_like(expected, torch.nan)  # every entry has to be written
    cuda_transfer.restrict(v.op, r, v.a, v.factors, v.periodic, coarse, GO)
    close(coarse, expected)
    c = vector(coarse.shape, 3)
    prolonged = reference.prolong(t, c)
    cuda_transfer.prolong(v.op, c, v.a, v.factors, v.periodic, v.e, GO)
    close(v.e * mask, prolonged)
    left = r.clone()
    cuda.correct(v.op, v.e, left, GO)
    close(left, r - reference.apply(op, prolonged))
    finish_is_the_reference(level, v, c, left)


def finish_is_the_reference(level, v, c, left):
    """The two steps from zero, the correction and the two steps in reverse order, however they are computed."""
    b = vector(v.size, 2) * level.op.mask
    sums = torch.zeros(launch.programs(v.size, cuda_transfer.FINISH), dtype=torch.float64, device=DEVICE)
    cuda.relax(v.op, b, v.r, OMEGA[0], GO)
    cuda.relax(v.op, v.r, v.second, OMEGA[1], GO)
    x = reference.smooth_from_zero(level.op, level.s, b)
    close(v.second, b - reference.apply(level.op, x))
    cuda.correct(v.op, v.e, v.second, GO)
    cuda_transfer.finish(v.op, c, v.a, v.factors, v.periodic, b, v.second, v.r, GO, sums)
    x = x + reference.prolong(level.transfer, c)
    for omega in reversed(OMEGA):
        x = reference.smooth(level.op, level.s, x, b, omega)
    close(v.r, x)
    close(sums.sum(), (v.r.double() * b.double()).sum(), 1e-12)


FACTORS = {
    "even_3d": (1, 2, 1),
    "prime_3d": (2, 1, 2),
    "odd_3d": (2, 2, 2),
    "two_wide": (1, 1, 2),
    "thread_2d": (2, 1, 2),
}


@pytest.mark.parametrize("grid", FACTORS)
def test_restriction_is_the_transpose_for_any_weights_and_factors(grid):
    A, factors = system("stored", grid), FACTORS[grid]
    size, periodic = tuple(A.diag.shape), A.periodic
    a = (vector((3, *size), 5, torch.float64).abs() * 100).clamp_max(255).to(torch.uint8)
    for d in range(3):  # no weight towards what is not there
        if not periodic[d]:
            a[d].narrow(d, 0, 1).zero_()
            a[d].narrow(d, size[d] - 1, 1).zero_()
    op = Couplings(LEVEL, (a[0],) * 5, size)
    mask = torch.ones(size, dtype=torch.float64, device=DEVICE)
    t = Transfer([a[d].double() / 255 if f == 2 else None for d, f in enumerate(factors)], factors, mask, periodic)
    r = vector(size, 6, torch.float64)
    expected = reference.restrict(t, r)
    coarse, x = torch.full_like(expected, torch.nan), torch.full_like(r, torch.nan)
    cuda_transfer.restrict(op, r, a, factors, periodic, coarse, GO)
    close(coarse, expected, 1e-14)
    c = vector(coarse.shape, 7, torch.float64)
    cuda_transfer.prolong(op, c, a, factors, periodic, x, GO)
    close(x, reference.prolong(t, c), 1e-14)
    close((x * r).sum(), (c * coarse).sum(), 1e-12)


def whole_cycle(grid, form, storage=torch.float32):
    A = system(form, grid)
    h, exponent = levels(A)
    cycle = hierarchy_cycle(h, cell_codes(A), exponent, storage)
    b = vector(tuple(A.diag.shape)) * A.unknown
    close(cycle.apply(b), v_cycle(hierarchy_as_stored(h, cycle), b))
    return cycle


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", ["prime_3d", "odd_3d", "flat_last", "thread_2d"])
def test_whole_cycle(grid, form):
    whole_cycle(grid, form)


@pytest.mark.parametrize(("grid", "form"), [("odd_3d", "cells"), ("flat_last", "stored")])
def test_whole_cycle_in_small_tiles(grid, form, small_tiles):
    assert launch.programs(GRIDS[grid][0]) > 4
    whole_cycle(grid, form)


@pytest.mark.parametrize("form", FORMS)
def test_whole_cycle_with_conductances_in_sixteen_bits(form):
    cycle = whole_cycle("prime_3d", form, torch.bfloat16)
    kinds = {v.op.arrays[3].dtype for v in cycle.levels if v.op.form == LEVEL}
    assert kinds <= {torch.bfloat16}
    assert kinds or form == "cells"


def test_levels_without_an_unknown_stay_zero():
    A = cell_system("even_3d").to(DEVICE)
    _, v = finest(A)
    b = vector(v.size)
    cuda.relax(v.op, b, v.r, OMEGA[0], GO)
    assert not v.r[~A.unknown].any()
    v.second.zero_()
    cuda_transfer.finish(v.op, vector((4, 4, 4)), v.a, v.factors, v.periodic, b, v.second, v.r, GO)
    assert not v.r[~A.unknown].any()


def test_the_coarsest_inverse():
    for m in (1, 5, 16, 61, 128):
        matrix, b = vector((m, m), m), vector((m,), m + 1)
        y = torch.full_like(b, torch.nan)
        cuda_transfer.multiply(matrix, b, y, GO)
        close(y, matrix @ b)


def test_no_kernel_of_the_cycle_writes_once_stopped():
    A = system("stored", "prime_3d")
    h, _ = levels(A)
    cycle = hierarchy_cycle(h)
    b = vector(tuple(A.diag.shape))
    cycle(b)
    kept = [t for v in cycle.levels for t in (v.r, v.second, v.e)] + [cycle.bottom_b, cycle.bottom_x]
    before = [t.clone() for t in kept]
    cycle(2 * b, stop=torch.ones_like(GO))
    assert all(torch.equal(t, u) for t, u in zip(kept, before, strict=True))
    z = cycle.apply(b)  # nothing was left behind by the first call
    assert torch.equal(z, before[0])


@pytest.mark.parametrize("n", [1, 63, 300])
def test_vector_updates(n, small_tiles):
    r, q, p, z, x = (vector((n,), seed, torch.float64) for seed in range(5))
    b = torch.full((n,), torch.nan, device=DEVICE)
    v = cuda_vectors.Vectors(r, 1, exponent=3)
    v.start(r, b)
    rr = float(r @ r)
    factor = float(v.scalars[cuda_vectors.FACTOR])
    assert float(v.scalars[cuda_vectors.RR]) == pytest.approx(rr, rel=1e-14)
    assert torch.equal(b, (r * factor).float())
    v.dot(b, z)
    v.finish_rz(v.programs)
    rz = float(b.double() @ z) / factor**2 / 8
    scale = 1 / factor / 8
    assert float(v.scalars[cuda_vectors.RZ]) == pytest.approx(rz, rel=1e-12)
    assert float(v.scalars[cuda_vectors.BETA]) == 0  # the first step
    expected = scale * z
    v.direction(p, z)
    close(p, expected, 1e-14)
    v.dot(p, q)
    v.finish_pap(v.programs, scaled=True)
    alpha = rz / float(p @ q)
    assert float(v.scalars[cuda_vectors.ALPHA]) == pytest.approx(alpha, rel=1e-9)
    residual, iterate = r - v.scalars[cuda_vectors.ALPHA] * q, x + v.scalars[cuda_vectors.ALPHA] * p
    v.update_residual(r, q, b)
    v.finish_rr()
    v.advance(x, p)
    close(r, residual, 1e-14)
    close(x, iterate, 1e-14)
    assert float(v.scalars[cuda_vectors.RR]) == pytest.approx(float(residual @ residual), rel=1e-12)


def test_a_step_that_is_not_finite_leaves_x_alone():
    r, x = vector((40,), 1, torch.float64), vector((40,), 2, torch.float64)
    before, zero = x.clone(), torch.zeros_like(r)
    v = cuda_vectors.Vectors(r, 1)
    v.start(r, None)
    v.finish_rz(0)
    v.dot(zero, zero)
    v.finish_pap(v.programs, scaled=False)  # p.Ap = 0
    v.advance(x, r)
    v.update_residual(r, r, None)
    v.finish_rr()
    assert torch.equal(x, before)
    assert torch.isnan(v.scalars[cuda_vectors.RR])


@pytest.mark.parametrize("norm", [1.0, 0.99, 2.0, 3.7e5, 1e-150, 1e150, 2.0**-40, 0.0, float("inf"), float("nan")])
def test_the_factor_is_the_power_of_two_of_the_cpu(norm):
    from krylearn.solvers.kernels.cpu.conjugate_gradients import Cycle

    v = cuda_vectors.Vectors(torch.zeros(1, dtype=torch.float64, device=DEVICE), 1)
    v.sums.fill_(norm**2)
    v.finish_rr(first=True, scaled=True)
    assert float(v.scalars[cuda_vectors.FACTOR]) == Cycle.factor(Cycle.__new__(Cycle), norm**2)


# --- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_codes_say_all_of_a_cell_type_operator(grid):
    A = cell_system(grid).to(DEVICE)
    codes = cell_codes(A)
    torch.testing.assert_close(diagonal_of(codes.code, codes.conductance), A.diag, rtol=1e-15, atol=0)
    for d in range(3):
        assert torch.equal((codes.code >> (2 * d) & 1) * codes.conductance[d], A.links[d])
        assert torch.equal((codes.code >> (2 * d + 1) & 1) * codes.conductance[d], torch.roll(A.links[d], 1, d))
    assert Couplings.of_cells(codes, torch.float64).nbytes < stored(A, torch.float64).nbytes


def test_more_patterns_than_sixteen_bits_name(monkeypatch):
    A = system("cells", "prime_3d")
    h, exponent = levels(A)
    short = kernel_level(h.levels[0], torch.float32, cell_codes(A), exponent).allocate()
    monkeypatch.setattr("krylearn.solvers.kernels.cuda.level.SHORT", 3)
    long = kernel_level(h.levels[0], torch.float32, cell_codes(A), exponent).allocate()
    assert (short.op.arrays[0].dtype, long.op.arrays[0].dtype) == (torch.uint16, torch.int32)
    b = vector(long.size)
    for v in (short, long):
        cuda.relax(v.op, b, v.r, 1.0, GO)
    assert torch.equal(short.r, long.r)


def test_what_is_no_cell_type_operator():
    ones = torch.ones(4, 5, dtype=torch.float64)
    assert cell_codes(Poisson.from_cells(ones)) is not None
    assert cell_codes(Poisson.from_coefficients(3 * ones)) is not None  # Dirichlet sides count two
    assert cell_codes(Poisson.from_cells(ones, shift=1.0)) is None
    assert cell_codes(grid_system("even_2d")) is None
    half = [torch.ones(5, 5, dtype=torch.float64), torch.ones(4, 6, dtype=torch.float64)]
    half[0][0] = 0.5  # half a conductance to p = 0
    assert cell_codes(Poisson.from_faces(half)) is None
