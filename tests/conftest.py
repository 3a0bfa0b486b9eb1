"""The registry: every theorem is tested on every method and system; a new solver adds one line and inherits all."""

import os

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson
from krylearn.pde.scenes import right_hand_side, scene
from krylearn.solvers import cg, dcdm
from scipy.sparse import diags_array

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: the CUDA kernels are then run on the CPU
os.environ.setdefault("KRYLEARN_WAIT_FOR_KERNELS", "1")  # results of tests do not depend on what has been compiled


def dirichlet_1d(n=60):
    return diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]).tocsr()


def family(name, shape, kind="white", seed=10007):
    def system():
        A = scene(name, shape, seed)
        return A, right_hand_side(A, kind, seed)

    return system


def unstructured():
    rng = np.random.default_rng(20011)
    G = rng.standard_normal((50, 50))
    return G @ G.T + 5 * np.eye(50), rng.standard_normal(50)


def hermitian():
    rng = np.random.default_rng(20021)
    G = rng.standard_normal((30, 30)) + 1j * rng.standard_normal((30, 30))
    return G @ G.conj().T + 5 * np.eye(30), rng.standard_normal(30) + 1j * rng.standard_normal(30)


def flat_slab():
    kappa = 10 ** np.random.default_rng(20023).uniform(-2, 2, (13, 1, 11))
    A = Poisson.from_coefficients(kappa, boundary={"x": "periodic", "z-": "neumann"})
    return A, torch.ones(13, 1, 11, dtype=torch.float64)


def all_neumann_compatible():
    A = Poisson.from_cells(np.ones((9, 10)))
    b = np.random.default_rng(20029).standard_normal((9, 10))
    return A, b - b.mean()


# named by what is hard in them
SYSTEMS = {
    "dirichlet_1d_csr": lambda: (dirichlet_1d(), np.ones(60)),
    "unstructured_dense": unstructured,
    "hermitian_complex": hermitian,
    "open_box": family("open_box", (8, 8, 8)),
    "obstacles_physical_rhs": family("obstacles", (9, 9, 9), "divergence"),
    "thin_walls": family("thin_walls", (17, 16)),
    "mazes": family("mazes", (16, 16)),
    "inclusions_1e6": family("inclusions", (8, 8, 8), "points"),
    "prime_sized": family("lognormal", (7, 11, 5)),
    "flat_slab": flat_slab,
    "all_neumann_compatible": all_neumann_compatible,
    "periodic": family("periodic", (8, 8)),
}


def _with(M):
    def method(A, b, **options):
        return cg(A, b, M=M if isinstance(A, Poisson) else None, **options)

    return method


METHODS = {
    "cg_default": _with(None),
    "cg_plain": _with("none"),
    "cg_geometric": _with("geometric"),
    "cg_resistor": _with("resistor"),
    "dcdm_identity": lambda A, b, **options: dcdm(A, b, None, **options),
}


@pytest.fixture(params=list(SYSTEMS))
def system(request):
    """(A, b) of every system of the registry."""
    return SYSTEMS[request.param]()


@pytest.fixture(params=list(METHODS))
def method(request):
    """Every solver of the registry, called (A, b, rtol=...)."""
    return METHODS[request.param]


@pytest.fixture
def residual_norm():
    """‖b - A x‖ in float64 from the assembled matrix: independent of the matrix-free product."""

    def norm(A, b, x):
        matrix = A.matrix() if isinstance(A, Poisson) else A
        b, x = (np.asarray(v).reshape(-1) for v in (b, x))
        matrix, b, x = (v.astype(np.result_type(v.dtype, np.float64)) for v in (matrix, b, x))
        return np.linalg.norm(b - matrix @ x)

    return norm
