"""The picture of `poisson_blend`: a planet pasted into another sky, as it is and without a seam."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SIZE = 160


def paste() -> tuple[Array, Array, Array]:
    """Return the source, the target with a piece of it pasted, and the blended image, (160, 160, 3) in [0, 1].

    Examples
    --------
    >>> source, pasted, blended = paste()
    >>> blended.shape, float(abs(blended[0] - pasted[0]).max()) < 1e-12
    ((160, 160, 3), True)
    """
    from krylearn.solvers.integrations.image_editing import poisson_blend

    rng = np.random.default_rng(41131)
    y, x = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    target = np.stack([0.55 + 0.35 * y, 0.45 + 0.1 * x, 0.75 - 0.3 * y], axis=-1) + 0.01 * rng.standard_normal(
        (1, 1, 3)
    )
    radius = np.hypot(x, y)
    height = np.sqrt(np.clip(0.25 - radius**2, 0, None)) * (1 + 0.25 * np.sin(14 * y + 3 * np.sin(5 * x)))
    source = 0.12 + height[..., None] * np.array([1.0, 0.8, 0.6]) * 1.4
    mask = radius < 0.7
    pasted = np.where(mask[..., None], source, target)
    return source, np.clip(pasted, 0, 1), np.clip(poisson_blend(source, target, mask), 0, 1)


def draw(lines: Sequence[dict[str, Any]], images: Path) -> None:
    """Draw the three images beside one another.

    Examples
    --------
    >>> draw([], Path("docs/images"))                                   # doctest: +SKIP
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, image, title in zip(figure.subplots(1, 3), paste(), ("source", "pasted", "poisson_blend"), strict=True):
        axes.imshow(np.clip(image, 0, 1))
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(images / "poisson-blend.png", dpi=110, metadata={"Software": None})
