import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from krylearn.pde import Cell, Poisson
from krylearn.pde.transforms import is_box
from krylearn.solvers import ConvergenceError, Reason, solve

BOX = Poisson.from_coefficients(np.ones((3, 4)))
MEDIUM = Poisson.from_coefficients(np.random.default_rng(90001).uniform(1, 9, (3, 2, 2)))
CLOSED = Poisson.from_cells([[Cell.FLUID, 1, 0, 1], [1, 1, 0, 1]])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own forward mode uses it
@pytest.mark.parametrize(("A", "M"), [(BOX, None), (MEDIUM, "geometric"), (MEDIUM, "none")])
def test_gradients_agree_with_differences(A, M):
    b = torch.from_numpy(np.random.default_rng(90007).standard_normal((2, *A.grid_shape))).requires_grad_()

    def f(b):
        return solve(A, b, rtol=1e-13, M=M)

    assert torch.autograd.gradcheck(f, (b,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (b,))


def test_gradient_on_a_singular_operator_is_the_pseudo_inverse():
    b = CLOSED.from_grid(CLOSED.nullspace.project(CLOSED.to_grid(np.arange(8.0))), torch.zeros(8, dtype=torch.float64))
    b.requires_grad_()
    weight = torch.arange(8.0, dtype=torch.float64)
    (solve(CLOSED, b, M="none") @ weight).backward()
    expected = np.linalg.pinv(CLOSED.matrix().toarray()) @ weight.numpy()
    np.testing.assert_allclose(b.grad, expected, atol=1e-9)


@pytest.mark.parametrize("A", [BOX, MEDIUM])
def test_answer_has_type_shape_and_dtype_of_b(A):
    n = A.shape[0]
    exact = scipy.sparse.linalg.spsolve(A.matrix().tocsc(), np.ones(n))
    for b in (
        np.ones(n),
        np.ones((3, n)),
        np.ones(A.grid_shape, np.float32),
        torch.ones(2, *A.grid_shape),
        torch.ones(n),
    ):
        x = solve(A, b, M=None if A is BOX else "none")
        assert type(x) is type(b)
        assert x.shape == b.shape
        assert x.dtype == b.dtype
        flat = np.asarray(x).reshape(-1, n)
        np.testing.assert_allclose(flat, np.broadcast_to(exact, flat.shape), rtol=1e-5)


def test_matrices_and_integers():
    x = solve(np.diag([1.0, 2.0]), np.array([[1, 2], [2, 8]]))
    np.testing.assert_allclose(x, [[1, 1], [2, 4]])


def test_boxes_take_the_transforms_and_set_nothing_up():
    A = Poisson.from_coefficients(np.ones((6, 7)))
    solve(A, np.ones((6, 7)))
    assert is_box(A)
    assert not any("NeuralMultigrid" in str(key) for key in A.cache)


def test_a_missed_tolerance_raises():
    with pytest.raises(ConvergenceError) as caught:
        solve(MEDIUM, np.ones(12), M="none", maxiter=2)
    assert caught.value.info.reason is Reason.MAXITER


def test_an_incompatible_rhs_raises():
    with pytest.raises(RuntimeError, match="null space"):
        solve(CLOSED, np.ones(8), M="none")


def test_vmap_and_functional_gradients():
    b = torch.from_numpy(np.random.default_rng(90011).standard_normal((3, 12)))
    rows = torch.func.vmap(lambda b: solve(BOX, b))(b)
    torch.testing.assert_close(rows, solve(BOX, b))
    gradient = torch.func.grad(lambda b: solve(BOX, b).square().sum())(b)
    torch.testing.assert_close(gradient, 2 * solve(BOX, rows))
