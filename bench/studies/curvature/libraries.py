"""Libraries that estimate Hessian spectra, each behind two functions: top eigenvalue and nodes of the density.

Each gets the network in evaluation mode, the loss and the batch, a number of products, and a seed, and is called
through its public functions, its operator made anew each time. What a library needs to run at all it gets for free, and
its configuration says so. Absent libraries are reported with the line that installs them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from krylearn.optim import hessian, slq
from krylearn.optim.spectra.quadrature import leaning_spectrum
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...measure.machine import version_of
from .models import Case

Nodes = tuple[np.ndarray, np.ndarray]  # values and their weights
FRACTIONS = (np.arange(20_000) + 0.5) / 20_000


@dataclass(frozen=True)
class CurvatureLibrary:
    """A library: name, distribution, configuration in words, and what it is asked for.

    operator: case -> (vector -> product);  top: (case, products, seed) -> (value, products made);  density: (case,
    products, seed) -> nodes
    """

    name: str
    distribution: str
    config: str
    operator: Callable[[Case], Callable[[Tensor], Tensor]]
    top: Callable[[Case, int, int], tuple[float, int]]
    density: Callable[[Case, int, int], Nodes]
    install: str = ""

    @property
    def absent(self) -> str | None:
        """The line that installs it, or None if it is there.

        Examples
        --------
        >>> LIBRARIES["krylearn"].absent is None
        True
        """
        if version_of(self.distribution):
            return None
        return f"{self.name} is absent: pip install {self.install or self.distribution}"


def our_operator(case: Case, **options: Any) -> Any:
    """Return our operator on a case."""
    return hessian(case.model, case.loss, case.batch, batchnorm="running", **options)


def _our_top(case: Case, products: int, seed: int) -> tuple[float, int]:
    spectrum = leaning_spectrum(our_operator(case), products, seed)  # what `sharpness` does, without its interval
    return spectrum.max, spectrum.products


def _our_density(case: Case, products: int, seed: int) -> Nodes:
    spectrum = slq(our_operator(case), steps=products, probes=1, rng=seed, progress=False)
    return spectrum.quantile(FRACTIONS), np.full(len(FRACTIONS), 1 / len(FRACTIONS))


@contextlib.contextmanager
def _conditions(seed: int) -> Iterator[None]:
    """Give a rival what it cannot do without: seeds, and attention as plain mathematics; hide its warnings."""
    with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (rivals draw from the global generators)
        yield


def _pyhessian(case: Case) -> Any:
    import pyhessian

    case.model.zero_grad(set_to_none=True)
    return pyhessian.hessian(case.model, nn.CrossEntropyLoss(), data=case.batch, cuda=False)


def _pyhessian_operator(case: Case) -> Callable[[Tensor], Tensor]:
    from pyhessian.utils import hessian_vector_product

    with _conditions(0):
        made = _pyhessian(case)

    def product(v: Tensor) -> Tensor:
        parts = [
            x.reshape(p.shape) for x, p in zip(v.split([p.numel() for p in made.params]), made.params, strict=True)
        ]
        found = hessian_vector_product(made.gradsH, made.params, parts)
        return torch.cat([x.reshape(-1) for x in found])

    return product


def _pyhessian_top(case: Case, products: int, seed: int) -> tuple[float, int]:
    with _conditions(seed):
        values, _ = _pyhessian(case).eigenvalues(maxIter=products, tol=0.0, top_n=1)
        case.model.zero_grad(set_to_none=True)
    return float(values[0]), products


def _pyhessian_density(case: Case, products: int, seed: int) -> Nodes:
    def eig(T: Any, eigenvectors: bool = True) -> Any:
        values, vectors = torch.linalg.eigh(T)
        return values[:, None], vectors

    before = getattr(torch, "eig", None)
    torch.eig = eig  # type: ignore[attr-defined,assignment]
    try:
        with _conditions(seed):
            values, weights = _pyhessian(case).density(iter=products, n_v=1)
            case.model.zero_grad(set_to_none=True)
    finally:
        torch.eig = before  # type: ignore[attr-defined,assignment]
    return np.array(values[0]), np.array(weights[0])


def _curvlinops(case: Case) -> Any:
    import curvlinops

    parameters = [p for p in case.model.parameters() if p.requires_grad]
    return curvlinops.HessianLinearOperator(
        case.model, nn.CrossEntropyLoss(), parameters, [case.batch], check_deterministic=False
    )


def _curvlinops_operator(case: Case) -> Callable[[Tensor], Tensor]:
    with _conditions(0):
        A = _curvlinops(case)

    def product(v: Tensor) -> Tensor:
        with _conditions(0):
            return A @ v

    return product


def _curvlinops_top(case: Case, products: int, seed: int) -> tuple[float, int]:
    from scipy.sparse.linalg import LinearOperator, eigsh

    made = 0
    with _conditions(seed):
        A = _curvlinops(case).to_scipy()

        def matvec(v: np.ndarray) -> np.ndarray:
            nonlocal made
            made += 1
            return A @ v

        counted = LinearOperator(A.shape, matvec=matvec, dtype=A.dtype)
        start = np.random.default_rng(seed).standard_normal(A.shape[0]).astype(A.dtype)
        # so loose a tolerance that it ends with its first basis: the number of products decides
        value = eigsh(counted, k=1, which="LA", ncv=max(products, 2), tol=0.9, v0=start, return_eigenvectors=False)
    return float(value[0]), made


def _curvlinops_density(case: Case, products: int, seed: int) -> Nodes:
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    with _conditions(seed):
        values, vectors = fast_lanczos(_curvlinops(case), products)
    return values.double().numpy(), vectors[0].double().numpy() ** 2


def _eigenthings(case: Case) -> Any:
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(case.model, [case.batch], supervised_loss(case.loss))


def _eigenthings_operator(case: Case) -> Callable[[Tensor], Tensor]:
    A = _eigenthings(case)

    def product(v: Tensor) -> Tensor:
        with _conditions(0):
            return A.matvec(v)

    return product


def _eigenthings_top(case: Case, products: int, seed: int) -> tuple[float, int]:
    from hessian_eigenthings import lanczos

    with _conditions(seed):
        found = lanczos(_eigenthings(case), k=1, max_iter=products, which="LA", seed=seed)
    return float(found.eigenvalues[0]), products


def _eigenthings_density(case: Case, products: int, seed: int) -> Nodes:
    from hessian_eigenthings import spectral_density

    with _conditions(seed):
        found = spectral_density(_eigenthings(case), num_runs=1, lanczos_steps=products, seed=seed)
    return found.raw_eigenvalues[0].double().numpy(), found.raw_weights[0].double().numpy()


LIBRARIES = {
    library.name: library
    for library in (
        CurvatureLibrary(
            "krylearn", "krylearn",
            "Lanczos from a probe that leans to the gradient, as sharpness(H); density: quantiles of slq, one probe",
            our_operator, _our_top, _our_density,
        ),
        CurvatureLibrary(
            "pyhessian", "pyhessian",
            "power iteration; density: nodes and weights, one run, with torch.linalg.eigh in the place of torch.eig, "
            "which torch no longer has; attention forced to mathematics for it",
            _pyhessian_operator, _pyhessian_top, _pyhessian_density, "--no-deps pyhessian",
        ),
        CurvatureLibrary(
            "curvlinops", "curvlinops-for-pytorch",
            "ARPACK on its Hessian, ended after its first basis; density: nodes and weights of fast_lanczos; "
            "determinism check off; attention forced to mathematics for it",
            _curvlinops_operator, _curvlinops_top, _curvlinops_density, "curvlinops-for-pytorch",
        ),
        CurvatureLibrary(
            "hessian-eigenthings", "hessian-eigenthings",
            "its Lanczos; density: nodes and weights, one run; attention forced to mathematics for it",
            _eigenthings_operator, _eigenthings_top, _eigenthings_density, "--pre hessian-eigenthings",
        ),
    )
}  # fmt: skip
