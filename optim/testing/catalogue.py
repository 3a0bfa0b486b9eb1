"""All conventions in one list: 20 of torch and 19 of Lightning."""

from __future__ import annotations

from .subject import Convention
from .torch_protocol import TORCH
from .torch_training import TRAINING


def conventions(lightning: bool = True) -> list[Convention]:
    """Return the conventions, T1 to T20 and, if wanted, L1 to L19.

    Examples
    --------
    >>> len(conventions(lightning=False))
    20
    """
    if not lightning:
        return [*TORCH, *TRAINING]
    from .lightning import LIGHTNING

    return [*TORCH, *TRAINING, *LIGHTNING]
