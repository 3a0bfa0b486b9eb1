"""The same few operations, for every device: `reference` (torch, differentiable), `cpu` (numba, fused, parallel)."""

from .fused_cg import fused_cg_steps, fused_product

__all__ = ["fused_cg_steps", "fused_product"]
