"""Gradients of solutions: with respect to conductances, twice, forward, under torch.func, against differences."""

import numpy as np
import pytest
import torch
from krylearn.pde import Cell, Poisson, right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg, solve
from torch.autograd import gradcheck, gradgradcheck

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own forward mode
OBSTACLE = np.array([[1, 1, 1, 2], [1, 0, 1, 1], [1, 1, 1, 1]])
MIXED = {"x": "periodic", "y-": "dirichlet", "y+": "neumann"}


def positive(*shape, seed=90101):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5


def noise(*shape, seed=90107):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def from_kappa(kappa):
    return Poisson.from_coefficients(kappa, boundary=MIXED, shift=0.1 * kappa)


def around_an_obstacle(kappa):
    return Poisson.from_coefficients(kappa, boundary="neumann", cells=OBSTACLE, spacing=(1.0, 0.5))


def from_faces(kappa):
    faces = [torch.cat([kappa, kappa[:1].square()]), torch.cat([kappa, kappa[:, :1]], dim=1)]
    return Poisson.from_faces(faces, extra=kappa.exp())


BUILDERS = [from_kappa, around_an_obstacle, from_faces]
WEIGHT = noise(2, 3, 4, seed=90113)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("start", ["random", "constant"])  # where all are equal, a minimum of two would have a kink
def test_gradients_of_conductances_agree_with_differences(build, start):
    kappa = positive(3, 4) if start == "random" else torch.ones(3, 4, dtype=torch.float64)
    inputs = kappa.requires_grad_(), noise(2, 3, 4).requires_grad_()

    def f(kappa, b):
        return (solve(build(kappa), b, rtol=1e-13, M="geometric") * WEIGHT).sum((1, 2))

    assert gradcheck(f, inputs, check_forward_ad=True, fast_mode=start == "constant")
    assert gradgradcheck(f, inputs, fast_mode=True)


def test_a_random_direction_in_3d_agrees_with_central_differences():
    """With the shipped network as preconditioner, on a scene of the test stream."""
    A = scene("lognormal", (9, 8, 7), 3)
    b, weight = right_hand_side(A, "white", 3), noise(9, 8, 7)
    kappa, direction = positive(9, 8, 7), noise(9, 8, 7, seed=90127)

    def loss(kappa):
        return (solve(Poisson.from_coefficients(kappa), b, rtol=1e-12) * weight).sum()

    gradient = torch.func.grad(loss)(kappa)
    h = 1e-4
    difference = (loss(kappa + h * direction) - loss(kappa - h * direction)) / (2 * h)
    assert float(difference) == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_torch_func_transforms_agree_with_each_other():
    kappa, b = positive(3, 4), noise(3, 4)

    def x(kappa):
        return solve(from_kappa(kappa), b, rtol=1e-13)

    def loss(kappa):
        return x(kappa).square().sum()

    reverse, forward = torch.func.jacrev(x)(kappa), torch.func.jacfwd(x)(kappa)
    torch.testing.assert_close(reverse, forward, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(torch.func.grad(loss)(kappa), 2 * torch.einsum("ij,ijkl->kl", x(kappa), reverse))
    hessian = torch.func.hessian(loss)(kappa)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(loss, kappa), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(hessian, hessian.permute(2, 3, 0, 1), rtol=1e-8, atol=1e-10)


def test_vmap_over_right_hand_sides_inside_a_gradient():
    rows = noise(3, 12)

    def loss(kappa):
        return torch.func.vmap(lambda b: solve(from_kappa(kappa), b, rtol=1e-12))(rows).square().sum()

    def looped(kappa):
        return sum(solve(from_kappa(kappa), b, rtol=1e-12).square().sum() for b in rows)

    kappa = positive(3, 4)
    torch.testing.assert_close(torch.func.grad(loss)(kappa), torch.func.grad(looped)(kappa), rtol=1e-8, atol=1e-10)


def test_the_gradient_on_a_singular_operator_is_that_of_the_pseudo_inverse():
    b = noise(3, 4)
    b -= b.mean()

    def build(kappa):
        return Poisson.from_coefficients(kappa, boundary="neumann")

    def dense(kappa):  # adding the constants to the range changes nothing for a b without them
        columns = torch.stack([build(kappa) @ e for e in torch.eye(12, dtype=torch.float64)], dim=1)
        return (torch.linalg.solve(columns + 1.0, b.reshape(-1)) * torch.arange(12.0).double()).sum()

    def sparse(kappa):
        return (solve(build(kappa), b, rtol=1e-13).reshape(-1) * torch.arange(12.0).double()).sum()

    kappa = positive(3, 4)
    torch.testing.assert_close(torch.func.grad(sparse)(kappa), torch.func.grad(dense)(kappa), rtol=1e-8, atol=1e-10)


def test_cells_without_an_unknown_get_no_gradient():
    kappa = positive(3, 4).requires_grad_()
    solve(around_an_obstacle(kappa), noise(3, 4)).square().sum().backward()
    fluid = torch.from_numpy(OBSTACLE == Cell.FLUID)
    assert bool((kappa.grad[~fluid] == 0).all())
    assert bool((kappa.grad[fluid] != 0).any())


def test_boundary_values_carry_gradients_through_the_right_hand_side():
    def f(kappa, inlet):
        A = Poisson.from_coefficients(kappa, boundary={"x": "dirichlet", "y": "neumann"})
        return solve(A, A.rhs(0.0, dirichlet={"x-": inlet}), rtol=1e-13, M="none")

    inputs = positive(3, 4).requires_grad_(), positive(4, seed=90131).requires_grad_()
    assert gradcheck(f, inputs)


def test_forward_and_backward_share_one_set_up(monkeypatch):
    made = []
    update = NeuralMultigrid.update
    monkeypatch.setattr(NeuralMultigrid, "update", lambda self, A: made.append(A) or update(self, A))
    kappa = positive(6, 5, 4).requires_grad_()
    A = Poisson.from_coefficients(kappa)
    x = solve(A, noise(3, 6, 5, 4))
    (first,) = torch.autograd.grad(x.square().sum(), kappa, create_graph=True)
    first.square().sum().backward()
    assert len(made) == 1


def test_cg_takes_an_operator_that_remembers_its_history():
    kappa = positive(6, 5, 4).requires_grad_()
    A, b = Poisson.from_coefficients(kappa), noise(6, 5, 4)
    x, info = cg(A, b, rtol=1e-10)
    assert info == 0
    assert not x.requires_grad
    torch.testing.assert_close(x, solve(A, b).detach(), rtol=1e-7, atol=1e-9)
    assert not (NeuralMultigrid(A) @ b).requires_grad


def test_a_matrix_that_would_lose_its_gradient_is_refused():
    with pytest.raises(TypeError, match="requires gradients"):
        solve(torch.eye(3, dtype=torch.float64, requires_grad=True), torch.ones(3, dtype=torch.float64))


def test_many_operators_have_gradients_of_their_own():
    kappas = [positive(3, 4, seed=s).requires_grad_() for s in (90149, 90163)]
    b = noise(2, 3, 4).requires_grad_()

    def f(b, *kappas):
        return solve([from_kappa(kappa) for kappa in kappas], b, rtol=1e-12, M="geometric")

    assert gradcheck(f, (b, *kappas))
    torch.testing.assert_close(f(b, *kappas)[1], solve(from_kappa(kappas[1]), b[1]), rtol=1e-8, atol=1e-10)
