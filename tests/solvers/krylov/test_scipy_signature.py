import inspect
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson
from krylearn.solvers import cg
from krylearn.solvers.krylov.conjugate_gradients import cg_steps
from krylearn.solvers.krylov.system import open_system


def spd(n, seed):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, n))
    return G @ G.T + np.eye(n), rng.standard_normal(n)


def test_signature_starts_with_scipys():
    ours, theirs = (list(inspect.signature(f).parameters.values()) for f in (cg, scipy.sparse.linalg.cg))
    assert [(p.name, p.kind, p.default) for p in ours[: len(theirs)]] == [(p.name, p.kind, p.default) for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_same_iterates_as_scipy():
    A, b = spd(30, 40009)
    theirs, ours = [], []
    scipy.sparse.linalg.cg(A, b, rtol=1e-8, callback=lambda x: theirs.append(x.copy()), maxiter=12)
    cg(A, b, rtol=1e-8, callback=lambda x: ours.append(x.copy()), maxiter=12)
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 25), seed=st.integers(0, 10**6))
def test_a_norm_of_the_error_never_grows(n, seed):
    A, b = spd(n, seed)
    exact = np.linalg.solve(A, b)
    errors = [exact @ A @ exact]
    cg(A, b, rtol=1e-12, callback=lambda x: errors.append((x - exact) @ A @ (x - exact)))
    assert all(after <= before * (1 + 1e-9) + 1e-24 * errors[0] for before, after in pairwise(errors))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_at_most_n_steps_for_well_conditioned(n, seed):
    A, b = spd(n, seed)
    _, info = cg(A + 10 * np.eye(n), b, rtol=1e-6)
    assert info == 0
    assert info.iterations <= n


def test_exact_preconditioner_needs_one_step():
    A, b = spd(20, 40013)
    _, info = cg(A, b, M=np.linalg.inv(A), rtol=1e-8)
    assert (info, info.iterations, info.matvecs) == (0, 1, 2)


@pytest.mark.parametrize("dtype", ["f", "d", "F", "D"])
@pytest.mark.parametrize("b_dtype", ["f", "d", "F", "D", "i", "e"])
def test_dtype_of_x_is_scipys(dtype, b_dtype):
    A, b = np.diag([1, 2, 3]).astype(dtype), np.array([1, 2, 3]).astype(b_dtype)
    x, info = cg(A, b, rtol=1e-4)
    assert info == 0
    assert x.dtype == scipy.sparse.linalg.cg(A, b, rtol=1e-4)[0].dtype


def test_poisson_default_is_a_cached_preconditioner():
    A = Poisson.from_coefficients(np.ones((12, 12)))
    b = np.random.default_rng(40031).standard_normal((12, 12))
    x, first = cg(A, b, M="geometric")
    y, second = cg(A, b, M="geometric")
    _, plain = cg(A, b, M="none")
    assert first.setup_seconds > 0
    assert second.setup_seconds == 0
    assert first.iterations < plain.iterations
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("make", [lambda A: A, lambda A: A.matrix(), lambda A: scipy.sparse.linalg.aslinearoperator(A)])
def test_poisson_its_matrix_and_its_operator_agree(make):
    A = Poisson.from_cells([[1, 1, 2, 1], [1, 0, 1, 1], [1, 1, 1, 0]])
    b = np.arange(12.0)
    b[~A.unknown.numpy().ravel()] = 0
    x, info = cg(make(A), b, rtol=1e-10, M="none" if make(A) is A else None)
    assert info == 0
    np.testing.assert_allclose(A @ x, b, atol=1e-8)


def test_grid_and_flat_torch_and_numpy_give_the_same():
    A = Poisson.from_coefficients(np.ones((5, 6, 4)))
    b = np.random.default_rng(40037).standard_normal(120)
    x, _ = cg(A, b, M="none")
    for shaped in (b.reshape(5, 6, 4), b.reshape(-1, 1), torch.from_numpy(b), torch.from_numpy(b).reshape(5, 6, 4)):
        y, _ = cg(A, shaped, M="none")
        assert type(y) is type(shaped)
        assert tuple(y.shape) == ((120,) if tuple(shaped.shape) == (120, 1) else tuple(shaped.shape))
        np.testing.assert_array_equal(np.asarray(y).ravel(), x)


def test_entries_without_an_unknown_are_ignored_and_zero():
    A = Poisson.from_cells([[1, 0, 1], [1, 1, 2]])
    b = np.array([[1.0, np.nan, 2.0], [0.0, 1.0, 5.0]])
    x, info = cg(A, b, M="none")
    assert info == 0
    assert (x[0, 1], x[1, 2]) == (0, 0)


def test_compressed_numbering_of_from_matrix():
    full = Poisson.from_cells([[1, 1, 2], [0, 1, 1]])
    compressed = full.matrix(unknowns=True)
    A = Poisson.from_matrix(compressed, shape=(2, 3), cells=[[1, 1, 2], [0, 1, 1]])
    b, seen = np.arange(4.0), []
    x, info = cg(A, b, M="none", rtol=1e-10, callback=seen.append)
    assert info == 0
    np.testing.assert_allclose(compressed @ x, b, atol=1e-9)
    assert seen[0] is seen[-1]
    np.testing.assert_array_equal(seen[-1], x)


def test_user_preconditioner_on_a_poisson_operator_sees_the_callers_vectors():
    A = Poisson.from_coefficients(np.ones((6, 7)))
    seen = set()

    def jacobi(r):
        seen.add((type(r), r.shape))
        return r / np.asarray(A.matrix().diagonal())

    _, info = cg(A, np.ones((6, 7)), M=jacobi)
    assert info == 0
    assert seen == {(np.ndarray, (42,))}


def test_x0_and_b_are_not_changed():
    A, b = spd(8, 40039)
    x0, kept_b = np.ones(8), b.copy()
    cg(A, b, x0)
    np.testing.assert_array_equal(x0, 1)
    np.testing.assert_array_equal(b, kept_b)
    P = Poisson.from_coefficients(np.ones((2, 4)))
    cg(P, b, x0, M="none")
    np.testing.assert_array_equal(x0, 1)
    np.testing.assert_array_equal(b, kept_b)


@pytest.mark.parametrize(
    ("A", "b", "options", "message"),
    [
        (np.ones((2, 3)), np.ones(3), {}, "square"),
        (np.eye(3), np.ones(4), {}, "expected b"),
        (np.eye(3), np.ones((3, 2)), {}, "expected b"),
        (np.eye(3), np.ones(3), {"x0": np.ones(2)}, "x0 has shape"),
        (np.eye(3), np.ones(3), {"x0": "bM"}, "x0 is"),
        (np.eye(3), np.ones(3), {"M": np.eye(2)}, "build M from this A"),
        (np.eye(3), np.ones(3), {"M": "geometric"}, "only a Poisson"),
        (np.eye(3), np.ones(3), {"nullspace": np.ones(2)}, "nullspace has shape"),
        (Poisson.from_coefficients(np.ones((2, 2))), np.ones(4), {"M": "none", "nullspace": np.ones(4)}, "its own"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(A, b, options, message):
    with pytest.raises(ValueError, match=message):
        cg(A, b, **options)


@pytest.mark.parametrize(
    ("A", "b", "options"),
    [("abc", np.ones(3), {}), (np.eye(2), np.array(["a", "b"]), {}), (np.eye(2), np.ones(2), {"M": 3.0}),
     (np.eye(2), np.ones(2), {"x0": 1j * np.ones(2)}), (np.eye(2), np.ones(2), {"M": 1j * np.eye(2)})],
)  # fmt: skip
def test_wrong_types_are_type_errors(A, b, options):
    with pytest.raises(TypeError):
        cg(A, b, **options)


def test_positional_tolerance_and_removed_tol_are_type_errors():
    with pytest.raises(TypeError):
        cg(np.eye(2), np.ones(2), None, 1e-8)
    with pytest.raises(TypeError):
        cg(np.eye(2), np.ones(2), tol=1e-8)


def test_fused_recurrence_has_the_readable_history():
    from krylearn.solvers import kernels

    if not hasattr(kernels, "fused_cg_steps"):
        pytest.skip("no fused recurrence in this build")
    A = Poisson.from_coefficients(10 ** np.random.default_rng(40063).uniform(-1, 1, (8, 7, 9)))
    b = np.random.default_rng(40087).standard_normal((8, 7, 9))
    histories = []
    for steps in (cg_steps, kernels.fused_cg_steps):
        system, M = open_system(A, b, None, None)
        states = steps(system.A, system.b, system.x, M)
        histories.append([float(rr) for _, (_, _, rr, _) in zip(range(10), states, strict=False)])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-9)
