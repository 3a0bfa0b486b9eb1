"""`NPSDO`: the published linear multilevel map bound to an operator, its stencils made once for that geometry."""

from __future__ import annotations

import copy
import time
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from krylearn.pde import Poisson
from torch import Tensor, nn
from torch.nn import functional

from ..multigrid.weight_files import fill, read_tensors, write_tensors
from .npsdo_network import NPSDONetwork, geometry_image

ARCHITECTURE = "npsdo-1"
DEFAULT = {False: "npsdo-3d-v1", True: "npsdo-3d-symmetric-v1"}


class NPSDO:
    """Directions proposed by NPSDO's operator (Lan et al., ICML 2024), for `dcdm`; the symmetric variant also for `cg`.

    ``dcdm(A, b, NPSDO(A))`` is the published iteration up to rounding: there the two coefficients of Gram-Schmidt come
    one after the other, which is the same since the two earlier directions are conjugate.

    Parameters
    ----------
    A : Poisson
        Cells of fluid, air and solid. Coefficients and stretched cells do not matter to the network.
    weights : None, path or torch.nn.Module
        None: the shipped weights (3D). A path: a safetensors file of ``krylearn train npsdo``. A module: NPSDONetwork.
    symmetric : bool
        Which of the shipped weights; of no effect on others.

    Attributes
    ----------
    setup_seconds : time to make the stencils;  memory : bytes that they take

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.solvers import dcdm
    >>> A = Poisson.from_cells(np.ones((10, 12, 9)))
    >>> network = NPSDONetwork(2, generator=torch.Generator().manual_seed(0))
    >>> b = np.zeros((10, 12, 9)); b[2, 3, 4], b[7, 8, 5] = 1, -1
    >>> x, info = dcdm(A, b, NPSDO(A, network))
    >>> info == 0
    True
    """

    def __init__(self, A: Poisson, weights: str | Path | nn.Module | None = None, *, symmetric: bool = False) -> None:
        if not isinstance(A, Poisson):
            raise TypeError(f"got A of type {type(A).__name__}; expected krylearn.pde.Poisson; see Poisson.from_matrix")
        network = shipped_npsdo(DEFAULT[symmetric]) if weights is None else weights
        network = load_npsdo(network) if isinstance(network, str | Path) else network
        if not isinstance(network, NPSDONetwork):
            raise TypeError(f"got weights of type {type(network).__name__}; expected None, a path or an NPSDONetwork")
        if network.dimension != len(A.grid_shape):
            raise ValueError(
                f"got weights for {network.dimension}D and a grid of {len(A.grid_shape)}D; expected the same"
            )
        if any(p.device != A.device for p in network.parameters()):
            network = copy.deepcopy(network).to(A.device)
        begin = time.perf_counter()
        self.A, self.shape, self.dtype, self.network = A, A.shape, A.dtype, network.eval()
        with torch.no_grad():
            self.stencils = network.stencils(geometry_image(A, 2**network.levels))
        self.setup_seconds = time.perf_counter() - begin
        self.memory = sum(w.numel() * w.element_size() for w in (*self.stencils.down, *self.stencils.up))

    def propose(self, r: Tensor) -> Tensor:
        """Return P r on the internal grid, in the dtype of r, computed in float32; leading axes are batches."""
        batch = r.reshape(-1, *r.shape[-3:])
        norm = torch.linalg.vector_norm(batch.double(), dim=(1, 2, 3), keepdim=True)
        if not bool(torch.isfinite(norm).all()):
            return r.clone()
        unit = (batch / torch.where(norm > 0, norm, 1)).float()
        with torch.no_grad():
            g = apply_on_grid(self.network, self.stencils, self.A, unit)
        return (g.to(r.dtype) * norm).to(r.dtype).reshape(r.shape)

    def matvec(self, r: Any) -> Any:
        """Return P r in the shape, array type and dtype of r: flat or grid-shaped, NumPy or torch, batches first."""
        return self.A.from_grid(self.propose(self.A.to_grid(r)), r)

    __call__ = matvec
    __matmul__ = matvec

    def __repr__(self) -> str:
        return f"NPSDO({self.A!r}, levels={self.network.levels}, symmetric={self.network.symmetric})"


def apply_on_grid(network: NPSDONetwork, stencils: Any, A: Poisson, r: Tensor) -> Tensor:
    """Apply the network to (batch, *internal grid): pad to what it can halve, cut, mask."""
    flat = len(A.grid_shape) == 2
    u = r.squeeze(-2) if flat else r
    grid, multiple = u.shape[1:], 2**network.levels
    u = functional.pad(u, [p for n in reversed(grid) for p in (0, -n % multiple)])
    g = network(stencils, u)[(slice(None), *(slice(n) for n in grid))]
    return (g.unsqueeze(-2) if flat else g) * A.unknown


def save_npsdo(network: NPSDONetwork, path: str | Path, card: dict[str, Any]) -> Path:
    """Write the network and, beside it, its card; returns the path of the safetensors file."""
    facts = {
        "architecture": ARCHITECTURE,
        "levels": str(network.levels),
        "dimension": str(network.dimension),
        "symmetric": str(int(network.symmetric)),
    }
    return write_tensors(network.state_dict(), facts, path, card)


def load_npsdo(path: str | Path) -> NPSDONetwork:
    """Read an `NPSDONetwork` in evaluation mode; errors as in `weight_files.load_weights`."""
    tensors, facts = read_tensors(path, ARCHITECTURE)
    known = facts.get("levels", "") in [str(n) for n in range(1, 13)] and facts.get("dimension") in ("2", "3")
    if not known or facts.get("symmetric") not in ("0", "1"):
        got = ", ".join(f"{name}={facts.get(name)!r:.40}" for name in ("levels", "dimension", "symmetric"))
        remedy = "train with `krylearn train npsdo`"
        raise ValueError(f"{Path(path).name} has {got}; expected 1 to 12, 2 or 3, 0 or 1; {remedy}")
    levels, dimension, symmetric = int(facts["levels"]), int(facts["dimension"]), facts["symmetric"] == "1"
    return fill(lambda: NPSDONetwork(levels, dimension, symmetric=symmetric), tensors, facts, Path(path))


@lru_cache(maxsize=4)
def shipped_npsdo(name: str) -> NPSDONetwork:
    """Read weights that came with the package, for example ``"npsdo-3d-v1"``."""
    with resources.as_file(resources.files(__package__) / "weights" / f"{name}.safetensors") as path:
        return load_npsdo(path)
