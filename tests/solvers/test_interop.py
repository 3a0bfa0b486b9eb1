import numpy as np
import pyamg
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg, dcdm
from krylearn.solvers.interop import pyamg_accel
from krylearn.solvers.krylov.arrays import as_map, common_dtype, from_torch, to_torch

DENSE = np.diag([1.0, 2.0, 3.0]) + 0.1


class WithMatvec:
    def matvec(self, v):
        return DENSE @ v


FORMS = {
    "dense": lambda: DENSE,
    "matrix": lambda: np.asmatrix(DENSE),
    "csr_array": lambda: scipy.sparse.csr_array(DENSE),
    "csr_matrix": lambda: scipy.sparse.csr_matrix(DENSE),
    "coo": lambda: scipy.sparse.coo_array(DENSE),
    "operator": lambda: scipy.sparse.linalg.aslinearoperator(DENSE),
    "duck": WithMatvec,
    "callable": lambda: lambda v: DENSE @ v,
    "torch": lambda: torch.from_numpy(DENSE),
    "torch_sparse": lambda: torch.from_numpy(DENSE).to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_gives_the_same(form):
    b = np.array([1.0, 2.0, 3.0])
    x, info = cg(FORMS[form](), b, rtol=1e-10)
    assert info == 0
    assert isinstance(x, np.ndarray)
    np.testing.assert_allclose(DENSE @ x, b)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("form", [f for f in FORMS if f not in ("duck", "callable")])
def test_every_form_of_a_with_a_torch_b(form):
    b = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    x, info = cg(FORMS[form](), b, rtol=1e-10)
    assert info == 0
    assert isinstance(x, torch.Tensor)
    np.testing.assert_allclose(DENSE @ x.numpy(), b)


def test_a_callable_sees_the_callers_arrays():
    seen = []

    def A(v):
        seen.append(type(v))
        return 2 * v

    cg(A, torch.ones(3))
    cg(A, np.ones(3))
    assert seen[0] is torch.Tensor
    assert seen[-1] is np.ndarray


def test_mixed_precision_of_torch_operands_is_promoted_not_refused():
    A, b = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.ones(3, dtype=torch.float64)
    x, info = cg(A, b, rtol=1e-12)
    assert info == 0
    assert x.dtype == torch.float64


@pytest.mark.parametrize("seed", range(80100, 80110))
def test_true_residual_of_single_precision_torch_is_judged_in_double(seed):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((20, 20))
    A, b = torch.from_numpy(G @ G.T + np.eye(20)).float(), torch.from_numpy(rng.standard_normal(20)).float()
    x, info = cg(A, b, rtol=1e-6)
    true = float(torch.linalg.vector_norm(b.double() - A.double() @ x.double()))
    assert info.true_residual == pytest.approx(true, rel=1e-9)
    assert (info == 0) == (true <= 1e-6 * float(torch.linalg.vector_norm(b.double())))


@pytest.mark.parametrize("solve", [cg, lambda A, b, **o: dcdm(A, b, None, **o)])
def test_operators_may_reuse_their_output(solve):
    out = np.empty(3)

    def A(v):
        np.dot(DENSE, v, out=out)
        return out

    x, info = solve(A, np.ones(3), rtol=1e-10)
    assert info == 0
    np.testing.assert_allclose(DENSE @ x, 1)


def test_mixed_devices_are_refused():
    with pytest.raises(ValueError, match="one device"):
        cg(torch.eye(3, device="meta"), torch.ones(3))
    with pytest.raises(ValueError, match="one device"):
        cg(torch.eye(3), torch.ones(3), M=torch.eye(3, device="meta"))


def test_answers_of_another_size_or_kind_are_refused():
    with pytest.raises(ValueError, match="expected the same size"):
        cg(lambda v: v[:2], np.ones(3))
    with pytest.raises(TypeError, match="complex"):
        cg(lambda v: 1j * v, np.ones(3))


def test_as_map_prefers_matvec_and_names_the_remedy():
    assert as_map(None)(3) == 3
    np.testing.assert_allclose(as_map(WithMatvec())(np.ones(3)), DENSE.sum(1))
    with pytest.raises(TypeError, match="wrap it in a function"):
        as_map(3.0)
    with pytest.raises(TypeError, match="aspreconditioner"):
        as_map(type("Hierarchy", (), {"aspreconditioner": None})())


def test_memory_is_shared_where_it_can_be():
    v = np.ones(4)
    t = to_torch(v)
    t[0] = 7
    assert v[0] == 7
    assert np.shares_memory(from_torch(t, "numpy"), v)


@pytest.mark.parametrize(
    "v",
    [np.arange(4.0)[::-1], np.arange(4.0).astype(">f8"), np.arange(4).astype(np.longdouble), np.broadcast_to(1.5, 4),
     [1, 2, 3, 4], np.array([1, 2, 3, 4], dtype=object), np.arange(8.0)[::2], np.arange(4, dtype=np.uint16)],
)  # fmt: skip
def test_unusual_numpy_arrays_arrive(v):
    np.testing.assert_array_equal(to_torch(v).numpy(), np.asarray(v).astype(float))


def test_common_dtype_follows_scipy():
    from scipy.sparse.linalg._isolve.utils import coerce

    names = {torch.float32: "f", torch.float64: "d", torch.complex64: "F", torch.complex128: "D"}
    for a in "fdFDi":
        for b in "fdFDie":
            assert names[common_dtype(np.zeros(1, dtype=a), np.zeros(1, dtype=b))] == coerce(a, b)


def test_our_cg_under_pyamg():
    A = pyamg.gallery.poisson((20, 20), format="csr")
    b = np.random.default_rng(80021).standard_normal(400)
    ml = pyamg.smoothed_aggregation_solver(A)
    residuals = []
    x = ml.solve(b, accel=pyamg_accel, tol=1e-9, maxiter=50, residuals=residuals)
    assert np.linalg.norm(b - A @ x) <= 1e-9 * np.linalg.norm(b)
    assert residuals[0] == pytest.approx(np.linalg.norm(b))
    assert len(residuals) > 2


def test_pyamgs_hierarchy_in_our_cg():
    A = pyamg.gallery.poisson((20, 20), format="csr")
    b = np.random.default_rng(80039).standard_normal(400)
    for build in (pyamg.smoothed_aggregation_solver, pyamg.ruge_stuben_solver):
        x, info = cg(A, b, M=build(A).aspreconditioner(), rtol=1e-9)
        assert info == 0
        assert info.iterations < 20
        assert np.linalg.norm(b - A @ x) <= 1e-9 * np.linalg.norm(b)


def test_pyamgs_hierarchy_on_a_poisson_operator():
    A = Poisson.from_coefficients(np.ones((16, 16)))
    M = pyamg.ruge_stuben_solver(scipy.sparse.csr_matrix(A.matrix())).aspreconditioner()
    _, info = cg(A, np.ones((16, 16)), M=M, rtol=1e-9)
    assert info == 0
    assert info.iterations < 15


def test_our_preconditioner_in_scipys_cg():
    A = Poisson.from_coefficients(10 ** np.random.default_rng(80051).uniform(-1, 1, (12, 13)))
    b = np.ones(156)
    M = NeuralMultigrid(A, weights="resistor")
    count = []
    x, info = scipy.sparse.linalg.cg(A.matrix(), b, M=M, rtol=1e-9, callback=lambda x: count.append(1))
    _, ours = cg(A, b, M=M, rtol=1e-9)
    assert info == 0
    assert abs(len(count) - ours.iterations) <= 1
    np.testing.assert_allclose(A @ x, b, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check_every", [1, 7])
def test_same_on_a_gpu(check_every):
    A = Poisson.from_cells(np.ones((9, 8, 7)))
    b = torch.from_numpy(np.random.default_rng(80071).standard_normal((9, 8, 7)))
    b -= b.mean()
    x, info = cg(A, b, M="none", rtol=1e-9)
    y, on_gpu = cg(A.to("cuda"), b.cuda(), M="none", rtol=1e-9, check_every=check_every)
    assert info == on_gpu == 0
    assert y.is_cuda
    torch.testing.assert_close(y.cpu(), x, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="cpu"):
        cg(A, b.cuda(), M="none")
