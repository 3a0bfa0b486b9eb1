"""Set-up of the CUDA cycle on its device, and what it needs there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .cuda_couplings import cell_codes
from .cuda_cycle import CudaCycle

if TYPE_CHECKING:
    from ..hierarchy import Hierarchy

PEAK_NETWORK, PEAK_CLASSICAL = 460, 170  # bytes per cell of the finest level at the peak of a set-up


def is_network(rule: Any) -> bool:
    """Whether a rule is the network that the kernels of `cuda_network` evaluate."""
    from ..coefficients import CoefficientNetwork

    return isinstance(rule, CoefficientNetwork)


def bytes_needed(cells: int, network: bool) -> int:
    """Estimate the device memory that a set-up needs at its peak, beyond the operator.

    The torch rule keeps features and hidden layers of all cells of the finest level at once. Measured on a CPU, where
    torch allocates the same tensors (tests/solvers/test_cuda_setup.py).

    Examples
    --------
    >>> bytes_needed(64**3, network=False) < bytes_needed(64**3, network=True)
    True
    """
    return cells * (PEAK_NETWORK if network else PEAK_CLASSICAL)


def device_cycle(
    A: Any, exponent: int, hierarchy: Callable[[], Hierarchy], rule: Any, storage: torch.dtype
) -> CudaCycle:
    """Set up the cycle of a Poisson operator on its device.

    Parameters
    ----------
    hierarchy : builds the quantised levels of A divided by 2^exponent
    rule : what evaluates to damping, transfer and coarse operator
    storage : dtype of the conductances that levels store

    Raises
    ------
    torch.cuda.OutOfMemoryError
        with the bytes that a set-up needs, and those that are free
    """
    try:
        cycle = CudaCycle.from_hierarchy(hierarchy(), cell_codes(A), exponent, storage)
        if A.device.type == "cuda":
            torch.cuda.synchronize(A.device)  # set-up is timed by the host
        return cycle
    except torch.cuda.OutOfMemoryError as error:
        need, free = bytes_needed(A.diag.numel(), is_network(rule)), "an unknown number"
        if A.device.type == "cuda":
            free = f"{torch.cuda.mem_get_info(A.device)[0]:,}"
        raise torch.cuda.OutOfMemoryError(
            f"set-up ran out of memory: it needs about {need:,} bytes on {A.device}, {free} are free; expected a "
            "smaller grid or a larger device: set up on the CPU (A.to('cpu')), or use plain CG (M='none')"
        ) from error
