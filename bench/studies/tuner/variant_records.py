"""Records of the tuner's variants: what ablations and robustness have in common."""

from __future__ import annotations

import math
from typing import Any

from ...measure.record import Record


def variant_record(method: str, problem: str, config: str, repeats: int, **more: Any) -> Record:
    """Return the record of a variant of the tuner on a workload; `more` holds what was measured.

    Examples
    --------
    >>> variant_record("tuner variant", "mlp", "lr=10", 3, ratio=1.0).more
    {'ratio': 1.0}
    """
    return Record(
        method, problem, unknowns=0, tolerance=0.0, status="MEASURED", experiment="training", config=config,
        version="", repeats=repeats, more=more,
    )  # fmt: skip


def or_nan(loss: float | None) -> float:
    """Return a loss as a number: a run that diverged has none.

    Examples
    --------
    >>> or_nan(None), or_nan(0.5)
    (nan, 0.5)
    """
    return math.nan if loss is None else loss
