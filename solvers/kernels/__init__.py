"""The same few operations, for every device.

`reference` (torch, differentiable), `cpu` (numba, fused, parallel), `cuda` (Triton, fused); `choice` says which serve.
"""

from .choice import backend, product_for, steps_for
from .fused_cg import fused_cg_steps, fused_product

__all__ = ["backend", "fused_cg_steps", "fused_product", "product_for", "steps_for"]
