"""Ritz right-hand sides: what the vectors are, how they are weighed, and that streams are disjoint and seeded."""

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson, scene
from krylearn.solvers.published.ritz import ritz_basis, scaled_theta, stored_basis


@pytest.fixture(scope="module")
def box():
    return Poisson.from_cells(np.ones((9, 8, 7)))


@pytest.fixture(scope="module")
def basis(box):
    return ritz_basis(box, 120, seed=70_111)


def test_vectors_are_orthonormal_and_ascending(basis):
    Y = basis.vectors.double()
    assert float((Y @ Y.T - torch.eye(len(Y), dtype=torch.float64)).abs().max()) < 1e-5
    assert bool((basis.values.diff() > 0).all())


def test_pairs_are_as_good_as_their_bounds(box, basis):
    Y = basis.vectors.double().view(-1, *basis.grid)
    residuals = (box.apply(Y) - basis.values.view(-1, 1, 1, 1) * Y).flatten(1).norm(dim=1)
    assert bool((residuals <= basis.bounds + 1e-5).all())
    assert float(basis.bounds[:3].max()) < 1e-6  # the lowest have converged


@pytest.mark.parametrize(
    "A", [Poisson.from_cells(np.ones((6, 7))), scene("neumann", (6, 6, 6), 1)], ids=["box", "solid"]
)
def test_null_space_is_dropped(A):
    """All of a small singular operator: every vector is orthogonal to the constants, and zero in solid cells."""
    basis = ritz_basis(A, A.unknowns, seed=70_117)
    assert float(basis.values[0]) > 1e-8
    inside = basis.vectors[:, A.unknown.reshape(-1)]
    assert float(inside.sum(1).abs().max()) < 1e-4
    assert not basis.vectors[:, ~A.unknown.reshape(-1)].any()


def test_cut_is_counted_after_the_zero_modes_are_gone(basis):
    assert basis.low == 120 // 2 + 6
    assert len(basis.values) <= 120
    assert [scaled_theta(m) for m in (10_000, 1500, 20)] == [500, 75, 1]


def test_low_coefficients_have_81_times_the_variance(basis):
    c = basis.coefficients(range(400), seed=5)
    ratio = c[:, : basis.low].var() / c[:, basis.low :].var()
    assert 75 < float(ratio) < 87
    assert abs(float(c[:, basis.low :].std()) - 1) < 0.03


def test_right_hand_sides_are_unit_combinations_of_the_vectors(basis):
    b = basis.right_hand_sides(range(5), seed=3)
    assert b.shape == (5, *basis.grid)
    np.testing.assert_allclose(b.flatten(1).norm(dim=1), 1, rtol=1e-5)
    inside = b.flatten(1) @ basis.vectors.T @ basis.vectors
    torch.testing.assert_close(inside, b.flatten(1), rtol=0, atol=1e-5)


def test_a_right_hand_side_is_a_function_of_its_number_alone(basis):
    together = basis.right_hand_sides(range(30), seed=3, chunk=7)
    apart = basis.right_hand_sides([29, 4], seed=3)
    torch.testing.assert_close(together[[29, 4]], apart, rtol=1e-5, atol=1e-6)


def test_streams_and_seeds_share_no_draw(basis):
    draws = [basis.right_hand_sides(range(8), seed, stream).flatten(1)
             for seed, stream in ((3, "train"), (3, "validation"), (3, "test"), (4, "train"))]  # fmt: skip
    every = torch.cat(draws)
    gram = every @ every.T - torch.eye(len(every))
    assert float(gram.abs().max()) < 0.7  # none is another one
    with pytest.raises(ValueError, match="expected one of train"):
        basis.coefficients([0], 3, "holdout")


def test_start_vector_is_seeded(box):
    one, again, other = (ritz_basis(box, 10, seed=s).vectors for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one.abs(), other.abs(), atol=1e-3)


def test_stored_basis_is_made_once_and_again_for_another_call(box, tmp_path, monkeypatch):
    from krylearn.solvers.published import ritz

    calls = []
    make = ritz.ritz_basis
    monkeypatch.setattr(ritz, "ritz_basis", lambda *a, **k: calls.append(a[1]) or make(*a, **k))
    path = tmp_path / "deep" / "basis.safetensors"
    first = stored_basis(box, 12, path, seed=1)
    again = stored_basis(box, 12, path, seed=1)
    assert torch.equal(first.vectors, again.vectors)
    assert first.low == again.low
    stored_basis(box, 14, path, seed=1)
    path.write_bytes(b"half a file")
    stored_basis(box, 14, path, seed=1)
    assert calls == [12, 14, 14]


def test_steps_are_checked(box):
    with pytest.raises(ValueError, match="2 or more"):
        ritz_basis(box, 1)
