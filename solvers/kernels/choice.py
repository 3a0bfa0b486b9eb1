"""Which kernels serve an array: numba on a CPU, Triton on a CUDA device, plain torch elsewhere."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .cpu.conjugate_gradients import FusedProduct, fused_cg_steps

KERNELS = ("auto", "cpu", "reference", "triton")


@cache
def have_triton() -> bool:
    """Whether Triton is installed (Linux only: krylearn[cuda], or with torch's CUDA wheels)."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU, slowly, for tests: TRITON_INTERPRET=1 before it is imported."""
    return have_triton() and os.environ.get("TRITON_INTERPRET") == "1"


def backend(kernels: str, device: torch.device) -> str:
    """Return "cpu", "triton" or "reference" for what the caller asked for; refuse what cannot run there.

    Examples
    --------
    >>> backend("auto", torch.device("cpu")), backend("reference", torch.device("cpu")), backend("auto", "meta")
    ('cpu', 'reference', 'reference')
    """
    kind = torch.device(device).type
    if kernels not in KERNELS:
        raise ValueError(f"got kernels={kernels!r}; expected 'auto', 'cpu' or 'reference', or 'triton' on CUDA")
    if kernels == "cpu" and kind != "cpu":
        raise ValueError(f"got kernels='cpu' for an operator on {device}; expected 'auto', or move A with A.to('cpu')")
    if kernels == "triton" and not have_triton():
        raise ImportError("kernels='triton' needs Triton; expected: pip install 'krylearn[cuda]' (Linux)")
    if kernels == "triton" and kind != "cuda" and not interpreted():
        raise ValueError(f"got kernels='triton' for an operator on {device}; expected one on CUDA: A.to('cuda')")
    if kernels != "auto":
        return kernels
    return "cpu" if kind == "cpu" else "triton" if kind == "cuda" and have_triton() else "reference"


def steps_for(b: Tensor, M: Any) -> Any:
    """Return the fused recurrence of CG on a Poisson operator, or None if there is none for this device.

    M : None or a map; its `operator` may be a NeuralMultigrid, whose kernels then decide
    """
    if on_triton(b.device, M):
        from .cuda.conjugate_gradients import cuda_cg_steps

        return cuda_cg_steps
    if getattr(getattr(M, "operator", None), "serves_meanwhile", False):
        return None
    return fused_cg_steps if b.is_cpu else None


def product_for(A: Any, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return x -> A x for one internal grid of a Poisson operator."""
    if on_triton(device):
        from .cuda.conjugate_gradients import cuda_product

        return cuda_product(A)
    return FusedProduct(A) if device.type == "cpu" else A.apply


def on_triton(device: torch.device, M: Any = None) -> bool:
    """Whether the Triton kernels serve this device, or this preconditioner (on a CPU only in the interpreter)."""
    chosen = getattr(getattr(M, "operator", None), "backend", "")
    return chosen == "triton" or (device.type == "cuda" and have_triton())
