"""`DCDM`: the published network bound to an operator, ready for `dcdm`.

    f(r) = mask · network(r / ‖r‖)

The input has unit 2-norm, the output is not scaled back, as published: the line search of `dcdm` scales. The mask keeps
cells without an unknown at zero. Cost per application in 3D: 60,928 ("64") or 92,032 ("128") multiply-adds per cell; a
multigrid cycle needs some tens.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from krylearn.pde import Poisson
from torch import Tensor, nn

from ..multigrid.weight_files import WIDEST, fill, read_tensors, write_tensors
from .dcdm_network import SIZES, DCDMNetwork

ARCHITECTURE = "dcdm-1"
SHIPPED = {(2, 64): "dcdm-2d-64-v1", (3, 64): "dcdm-3d-64-v1", (3, 128): "dcdm-3d-128-v1"}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DCDM:
    """Directions proposed by the published network (Kaneda et al., ICML 2023), for `dcdm`.

    Use it as ``dcdm(A, b, DCDM(A))``. It is **not a preconditioner for** `cg`: it is neither linear nor symmetric.
    `cg` notices, says so in ``info.notes`` and goes on with flexible directions.

    Parameters
    ----------
    A : Poisson
        2D or 3D. The network was trained on boxes with walls and unit spacing and is told nothing about A: obstacles
        and other sizes work as far as it generalises, coefficients and stretched cells do not matter to it.
    weights : None, path or torch.nn.Module
        None: the shipped weights of this dimension. A path: a safetensors file of ``krylearn train dcdm``. A module:
        ``(batch, *grid) -> (batch, *grid)``.
    size : 64 or 128
        Which of the shipped networks; 128 in 3D only. Of no effect on other weights.
    precision : "float32", "bfloat16" or "float16"
        of the convolutions. On processors with bfloat16 units half the time; directions get worse.
    compile : bool
        Whether to run the network through ``torch.compile`` (needs a C++ compiler on a CPU; the first call compiles).

    Attributes
    ----------
    network : the module, on A's device;  shape, dtype : what SciPy asks for

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        for an operator that is no `Poisson`, for weights of another dimension or architecture

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.solvers import dcdm
    >>> A = Poisson.from_cells(np.ones((16, 16)))
    >>> b = np.random.default_rng(0).standard_normal(256)
    >>> x, info = dcdm(A, b - b.mean(), DCDM(A), rtol=1e-4)
    >>> info == 0, info.iterations < 30
    (True, True)
    """

    def __init__(
        self,
        A: Poisson,
        weights: str | Path | nn.Module | None = None,
        *,
        size: int = 64,
        precision: str = "float32",
        compile: bool = False,
    ) -> None:
        if not isinstance(A, Poisson):
            raise TypeError(f"got A of type {type(A).__name__}; expected krylearn.pde.Poisson; see Poisson.from_matrix")
        if precision not in PRECISIONS:
            raise ValueError(f"got precision={precision!r}; expected one of {', '.join(PRECISIONS)}")
        self.A, self.shape, self.dtype, self.precision = A, A.shape, A.dtype, precision
        dimension = len(A.grid_shape)
        network = _network(weights, dimension, size)
        expected = getattr(network, "dimension", dimension)
        if expected != dimension:
            raise ValueError(f"got weights for {expected}D and a grid of {dimension}D; expected the same")
        if any(p.device != A.device for p in network.parameters()):
            network = copy.deepcopy(network).to(A.device)
        self.network = network.eval()
        self._run: Any = torch.compile(self.network) if compile else self.network

    def propose(self, r: Tensor) -> Tensor:
        """Return directions for residuals on the internal grid, in the dtype of r; leading axes are batches.

        A zero residual gives zero; one that is not finite comes back as it is, for the solver to see.
        """
        batch = r.reshape(-1, *r.shape[-3:])
        norm = torch.linalg.vector_norm(batch.double(), dim=(1, 2, 3), keepdim=True)
        if not bool(torch.isfinite(norm).all()):
            return r.clone()
        unit = (batch / torch.where(norm > 0, norm, 1)).float()
        flat = len(self.A.grid_shape) == 2
        with torch.no_grad(), torch.autocast(r.device.type, PRECISIONS[self.precision], self.precision != "float32"):
            g = self._run(unit.squeeze(-2) if flat else unit)
        g = g.unsqueeze(-2) if flat else g
        return (g.to(r.dtype) * self.A.unknown * (norm > 0)).reshape(r.shape)

    def matvec(self, r: Any) -> Any:
        """Return f(r) in the shape, array type and dtype of r: flat or grid-shaped, NumPy or torch, batches first."""
        return self.A.from_grid(self.propose(self.A.to_grid(r)), r)

    __call__ = matvec
    __matmul__ = matvec

    def __repr__(self) -> str:
        return f"DCDM({self.A!r}, {type(self.network).__name__}, precision={self.precision!r})"


def _network(weights: str | Path | nn.Module | None, dimension: int, size: int) -> nn.Module:
    """Return the module that a `weights` argument means."""
    if weights is None:
        if (dimension, size) not in SHIPPED:
            raise ValueError(
                f"got size={size} in {dimension}D; expected 64, or 128 in 3D: train another with `krylearn train dcdm`"
            )
        return shipped_network(SHIPPED[dimension, size])
    if isinstance(weights, nn.Module):
        return weights
    if isinstance(weights, str | Path):
        return load_network(weights)
    raise TypeError(f"got weights of type {type(weights).__name__}; expected None, a path or a torch.nn.Module")


# --- weights on disk: safetensors with what it takes to build the network, and a card ---------------------------------


def save_network(network: DCDMNetwork, path: str | Path, card: dict[str, Any]) -> Path:
    """Write the network and, beside it, its card; returns the path of the safetensors file."""
    facts = {
        "architecture": ARCHITECTURE,
        "size": str(network.size),
        "dimension": str(network.dimension),
        "width": str(network.width),
    }
    return write_tensors(network.state_dict(), facts, path, card)


def load_network(path: str | Path) -> DCDMNetwork:
    """Read a `DCDMNetwork` in evaluation mode; errors as in `weight_files.load_weights`."""
    tensors, facts = read_tensors(path, ARCHITECTURE)
    size, dimension, width = (_number(facts, name, path) for name in ("size", "dimension", "width"))
    if size not in SIZES or dimension not in (2, 3) or not 1 <= width <= WIDEST:
        raise ValueError(
            f"{Path(path).name} has size={size}, dimension={dimension}, width={width}; "
            f"expected one of {tuple(SIZES)}, 2 or 3, and 1 to {WIDEST}; train with `krylearn train dcdm`"
        )
    return fill(lambda: DCDMNetwork(size, dimension, width), tensors, facts, Path(path))


def _number(facts: dict[str, str], name: str, path: str | Path) -> int:
    text = facts.get(name, "none")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        remedy = "train with `krylearn train dcdm`"
        raise ValueError(f"{Path(path).name} has {name}={text!r:.40}; expected a number; {remedy}")
    return int(text)


@lru_cache(maxsize=4)
def shipped_network(name: str) -> DCDMNetwork:
    """Read weights that came with the package, for example ``"dcdm-3d-64-v1"``."""
    with resources.as_file(resources.files(__package__) / "weights" / f"{name}.safetensors") as path:
        return load_network(path)
