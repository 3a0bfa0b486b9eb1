"""`torch.compile` and `torch.func` around solves: one clean break, the same numbers, or a clear error."""

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg, dcdm, solve

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own

A = Poisson.from_coefficients(np.ones((8, 8)))
M = NeuralMultigrid(A)
B = torch.from_numpy(np.random.default_rng(55512).standard_normal(64))
CALLS = {
    "solve": lambda b: solve(A, b * 2) + 1,
    "cg": lambda b: cg(A, b * 2)[0] + 1,
    "dcdm": lambda b: dcdm(A, b * 2, M)[0] + 1,
    "M": lambda b: (M @ (b * 2)) + 1,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_compile_breaks_once_and_changes_no_bit(call):
    torch._dynamo.reset()
    found = torch._dynamo.explain(call)(B)
    if call is not CALLS["M"]:  # Dynamo breaks once more where `@` is an operator's own
        assert found.graph_break_count == 1
        assert found.graph_count == 2
    torch._dynamo.reset()
    assert torch.equal(torch.compile(call, backend="eager")(B), call(B))
    torch._dynamo.reset()


def test_gradients_go_through_the_break():
    torch._dynamo.reset()
    b = B.clone().requires_grad_(True)
    torch.compile(CALLS["solve"], backend="eager")(b).sum().backward()
    torch.testing.assert_close(b.grad, 2 * solve(A, torch.ones_like(B)))
    torch._dynamo.reset()


def test_vmap_over_solve_is_a_batch():
    batch = torch.stack([B, 2 * B, -B])
    torch.testing.assert_close(torch.func.vmap(lambda b: solve(A, b))(batch), solve(A, batch))


def test_vmap_over_cg_says_what_to_do():
    with pytest.raises(TypeError, match=r"pass b of shape \(k, n\)"):
        torch.func.vmap(lambda b: cg(A, b)[0])(torch.stack([B, B]))
