"""The same few operations, for every device.

`reference` (torch, differentiable), `cpu` (numba, fused, parallel), `cuda` (Triton, fused); `choice` says which serve.
"""

from .choice import backend, product_for, steps_for
from .cpu.conjugate_gradients import FusedProduct, fused_cg_steps

__all__ = ["FusedProduct", "backend", "fused_cg_steps", "product_for", "steps_for"]
