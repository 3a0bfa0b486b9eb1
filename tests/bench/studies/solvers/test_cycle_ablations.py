"""The assembled cycles: that of `hierarchy.v_cycle`, and all symmetric and positive definite."""

import numpy as np
import pytest
import torch
from krylearn.bench.studies.solvers.cycle_ablations import VARIANTS, Assembled, summary
from krylearn.pde import scene
from krylearn.solvers.multigrid.hierarchy import build, v_cycle
from krylearn.solvers.multigrid.preconditioner import find_rule, power_of_two, stencil_of


@pytest.fixture(scope="module", params=["porous", "lognormal", "anisotropic"])
def hierarchy(request):
    A = scene(request.param, (11, 10, 12), 95_003)
    with torch.no_grad():
        return build(stencil_of(A, power_of_two(float(A.diag.max()))), find_rule("tuned", 3), coarsest=12)


def test_the_shipped_variant_is_the_cycle(hierarchy):
    op = hierarchy.levels[0].op
    b = torch.randn(op.size, generator=torch.Generator().manual_seed(95_009)) * op.mask
    found = Assembled(hierarchy).variant("shipped")(b.double().numpy().ravel())
    expected = v_cycle(hierarchy, b).numpy().ravel()
    np.testing.assert_allclose(found, expected, atol=2e-4 * abs(expected).max())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_symmetric_and_positive(hierarchy, name):
    M, mask = Assembled(hierarchy).variant(name), hierarchy.levels[0].op.mask.numpy().ravel()
    rng = np.random.default_rng(95_021)
    u, v = (rng.standard_normal(mask.size) * mask for _ in range(2))
    on_u, on_v = M(u), M(v)
    scale = np.linalg.norm(u) * np.linalg.norm(on_v)
    assert abs(v @ on_u - u @ on_v) <= 1e-7 * scale  # sparse LU of a nearly singular bottom
    assert u @ on_u > 0
    assert v @ on_v > 0


def test_a_family_that_did_not_converge_shows_no_mean():
    line = {"problem": "mazes", "method": "tuned: once", "iterations": 9.0, "status": "CONVERGED"}
    rows = summary([line, line | {"status": "MAXITER"}])
    assert rows[0][:3] == ["mazes", "tuned", "-"]
    assert rows[1][:3] == ["geometric mean", "tuned", "-"]
