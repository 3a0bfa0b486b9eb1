"""CuPy arrays in and out: the protocol with a stand-in on any machine, the library itself on a CUDA device."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.krylov.arrays import to_torch

HARDWARE = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; nothing was run on hardware")


class Array:
    """What CuPy's array says of itself, over memory that torch can read here (kDLCUDAHost: neither host nor device)."""

    exported = 0

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **_):
        Array.exported += 1
        return self.tensor.__dlpack__()

    def __dlpack_device__(self):
        return 3, 0

    def __array__(self, *_):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    shape = property(lambda self: tuple(self.tensor.shape))
    dtype = property(lambda self: np.dtype(str(self.tensor.dtype).removeprefix("torch.")))


Array.__module__ = "cupy"


@pytest.fixture
def cupy(monkeypatch):
    module = ModuleType("cupy")
    module.from_dlpack = Array
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("flat", [True, False])
def test_product_preconditioner_and_solve_return_what_came_in(cupy, flat, dtype):
    A = Poisson.from_coefficients(10 ** np.random.default_rng(90_203).uniform(-1, 1, (9, 8)), dtype=dtype)
    b = torch.from_numpy(np.random.default_rng(90_217).standard_normal((9, 8))).to(dtype)
    b = b.reshape(-1) if flat else b
    M = NeuralMultigrid(A)
    for operator in (A, M):
        y = operator @ Array(b)
        assert isinstance(y, Array)
        assert y.dtype == Array(b).dtype
        torch.testing.assert_close(y.tensor, operator @ b)
    x, info = cg(A, Array(b), rtol=1e-5, M=M)
    expected, _ = cg(A, b, rtol=1e-5, M=M)
    assert info == 0
    assert isinstance(x, Array)
    torch.testing.assert_close(x.tensor, expected)


def test_torch_takes_an_array_in_the_order_of_its_own_stream(monkeypatch):
    asked = []

    class OnDevice(Array):
        def __dlpack__(self, **options):
            asked.append(options["stream"])
            return self.tensor.__dlpack__()

        def __dlpack_device__(self):
            return 2, 0  # kDLCUDA

    OnDevice.__module__ = "cupy"
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=77))
    assert to_torch(OnDevice(torch.ones(3))).tolist() == [1.0, 1.0, 1.0]
    assert asked == [77]


@pytest.fixture
def device_system():
    cupy = pytest.importorskip("cupy", reason="needs CuPy: pip install cupy-cuda12x")
    A = Poisson.from_coefficients(10 ** np.random.default_rng(90_227).uniform(-1, 1, (17, 18, 19))).to("cuda")
    return cupy, A, cupy.asarray(np.random.default_rng(90_239).standard_normal(A.shape[0]))


@pytest.mark.gpu
@HARDWARE
def test_our_cg_on_cupy_arrays(device_system):
    cupy, A, b = device_system
    with cupy.cuda.Stream(non_blocking=True):  # not the stream that torch works on
        b = b * 2
        x, info = cg(A, b, rtol=1e-9)
        r = b - A @ x
        assert info == 0
        assert isinstance(x, cupy.ndarray)
        assert float(cupy.linalg.norm(r)) <= 2e-9 * float(cupy.linalg.norm(b))


@pytest.mark.gpu
@HARDWARE
def test_our_preconditioner_in_cupys_cg(device_system):
    cupy, A, b = device_system
    from cupyx.scipy.sparse import csr_matrix
    from cupyx.scipy.sparse.linalg import LinearOperator, cg as their_cg

    matrix, M, count = csr_matrix(A.to("cpu").matrix()), NeuralMultigrid(A), []
    wrapped = LinearOperator(M.shape, matvec=M.matvec, dtype=M.dtype)
    for operator in (M, wrapped):
        count.clear()
        x, info = their_cg(matrix, b, M=operator, callback=lambda _: count.append(1))
        assert info == 0
        assert len(count) < 20
        assert float(cupy.linalg.norm(b - matrix @ x)) <= 1e-4 * float(cupy.linalg.norm(b))
