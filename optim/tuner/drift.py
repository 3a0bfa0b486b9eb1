"""Is the lr too low? What fresh gradients say about the way travelled lately, at the price of inner products.

    q = 2(1-β) · Σ <g_t, θ_t - θ_a> / Σ <g_t, θ_t - θ_(t+1)>

over twenty steps, θ_a being the weights 20 to 40 steps before. The gradient g_t comes from a batch that this way has
not seen, so <g_t, θ_t - θ_a> is an unbiased slope at its end: negative as long as going on would lower the loss. Where
steps only follow noise, in the stationary state, q is 1 (the fluctuation-dissipation relation of Yaida, arXiv
1810.00004, for small lr), in whatever unit loss, lr and weights are, for SGD and Adam alike (β is β₁ there). In between
lies the end of the descent that the first steps of a training are, which a higher lr reaches sooner. On all design
workloads that are not still on a plateau then, q crosses zero some 40 steps after the start at the lr that is best for
the end of the run, and later at half of it; above the best lr it hardly says anything. So an lr is only raised, towards
what q was at the best lr.
"""

from __future__ import annotations

import math

BLOCK = 20  # steps that q is averaged over
TARGETS = (0.0, 0.13, 0.26, 0.37, 0.45)  # of the first blocks after the start; later ones say nothing
ADAPTIVE = (0.1, 0.2, 0.42, 0.5, 0.55)  # the same for bases that divide by second moments
BLOCKS = len(TARGETS)
GAIN = 1.0  # doublings of the lr per unit that q falls short
MOST = 1.0  # doublings at once
RAISE = math.log2(2.5)  # doublings in all, the one by the line search of `tuner_hold` too


def drift(way: float, step: float, momentum: float) -> float:
    """Return q from the sums over a block; NaN where steps do not go down the gradient.

    Parameters
    ----------
    way : sum of <g, θ - θ_a>;  step : sum of <g, θ before - θ after the step>;  momentum : β

    Examples
    --------
    >>> drift(-2.0, 0.5, 0.75), drift(1.0, -1.0, 0.0)
    (-2.0, nan)
    """
    return 2 * (1 - momentum) * way / step if step > 0 else math.nan


def doublings(block: int, q: float, raised: float, adaptive: bool = False) -> float:
    """Return by how many doublings the lr is raised after a block, given how many it has been raised by.

    Examples
    --------
    >>> doublings(0, -3.0, 0.0), doublings(0, -0.5, 0.0), doublings(1, 0.3, 0.0), doublings(1, math.nan, 0.0)
    (1.0, 0.5, 0.0, 0.0)
    """
    if not math.isfinite(q):
        return 0.0
    target = (ADAPTIVE if adaptive else TARGETS)[block]
    return min(max(GAIN * (target - q), 0.0), MOST, max(RAISE - raised, 0.0))
