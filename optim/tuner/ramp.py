"""From what was measured to learning rate and momentum: pure functions, which the tuner only executes.

`edge` is ours, for steps that are lr times a gradient, with or without momentum (bases that divide by second moments
find their lr by `policies_trials`). A ramp doubles the lr every three steps from far below the first critical lr, while
the loss on one fixed batch is watched, until that loss has given back what it had gained, first at the lr η_x. Then
η = η_x/10, and training goes on from the weights that the ramp had at 3η: later ones have seen lrs that blow up the
norms of weights in front of a normalisation, which no lr repairs. η_x differs by a factor of about 1.5 between seeds,
the best lr by 2 between workloads at the same η_x. The constants, and the shares in the rules below, were set on the
five design workloads of `krylearn study training`. Sharpness alone cannot set η: at any η in a wide range it settles at
the threshold of that η (see `thresholds`), and a one-shot 2/λ at initialisation, where λ is 10 to 100 times smaller
than later, diverges. It serves as a cap afterwards, and sets the momentum where a spectrum resolves the condition.

Afterwards the lr is doubled whenever a line search along the last update finds it far below the edge: five updates in
one (at the schedule's full height) still lower the loss of a fresh batch. At the best lr of the design workloads two to
four do, at a ninth of it eight to a hundred. Too high an lr does not show in this way, so the divisor is on the
cautious side, and noise may say yes too: only in the 200 steps after the ramp, and once. `policies_drift` raises the lr
as well; both together bring it to η_x/4 at most.

`granziol` is the published learner (Granziol, Zohren, Roberts, arXiv 2006.09092, code of GadamX), defects corrected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

MOMENTUM = 0.8  # where no condition number is resolved; 0.9 was worse on three design workloads, no better on two
DOUBLING = 3  # steps in which the ramp doubles the lr
START = 1 / 16  # of the critical lr, where the ramp begins
STRETCH = 5.0  # updates in one that must still lower the loss for the lr to be doubled
WINDOW = 200  # steps after the ramp in which the lr may be doubled
RETURN = 3.0  # times the decided lr: the lr of the ramp whose weights are kept
RANGE = 64.0  # the ramp also ends when the loss has not improved over this factor in lr


class Proposal(NamedTuple):
    """What a policy decides: lr of the first group, momentum (None: leave it), and why in words."""

    lr: float
    momentum: float | None
    why: str


class Rule(NamedTuple):
    """When a ramp is over: `share` of the gain is lost in `confirm` looks in a row; then lr = η_x/divisor."""

    share: float
    confirm: int
    divisor: float


PLAIN = Rule(share=1.0, confirm=2, divisor=10.0)


class Ramp(NamedTuple):
    """What a ramp has seen: first loss, lowest loss and its lr, first lr of the blown looks in a row, their number.

    `over` says that the ramp has ended.
    """

    start: float
    best: float
    best_lr: float
    blown_lr: float = 0.0
    blown: int = 0
    over: bool = False


def ramp_lr(start: float, step: int, doubling: int = DOUBLING) -> float:
    """Return the lr of a step of the ramp.

    Examples
    --------
    >>> ramp_lr(0.01, 6), ramp_lr(0.01, 0)
    (0.04, 0.01)
    """
    return start * 2.0 ** (step / doubling)


def blown(start: float, best: float, loss: float, share: float = 0.5) -> bool:
    """Say whether a loss has given back a share of what was gained since the start, or is not finite.

    A twentieth of the first loss is always granted, so that the noise of a plateau is no alarm. Scaling the loss
    changes nothing.

    Examples
    --------
    >>> blown(2.3, 1.0, 1.5), blown(2.3, 1.0, 1.7), blown(2.3, 2.3, 2.35), blown(2.3, 1.0, float("nan"))
    (False, True, False, True)
    """
    return not loss - best <= max(share * (start - best), 0.05 * abs(start))


def advance(ramp: Ramp, lr: float, loss: float, rule: Rule = PLAIN) -> Ramp:
    """Take a look at the loss into account.

    Examples
    --------
    >>> ramp = advance(Ramp(2.3, 2.3, 0.01), 0.1, 1.5)
    >>> ramp.best_lr, ramp.over
    (0.1, False)
    >>> ramp = advance(advance(ramp, 0.4, 2.4), 0.5, 2.6)
    >>> ramp.blown_lr, ramp.over
    (0.4, True)
    """
    if blown(ramp.start, ramp.best, loss, rule.share):
        first = ramp.blown_lr if ramp.blown else lr
        hopeless = not loss <= ramp.start + abs(ramp.start)
        return ramp._replace(blown_lr=first, blown=ramp.blown + 1, over=hopeless or ramp.blown + 1 >= rule.confirm)
    if loss < ramp.best:
        return Ramp(ramp.start, loss, lr)
    return ramp._replace(blown_lr=lr, blown=0, over=lr > RANGE * ramp.best_lr)


def edge(ramp: Ramp, rule: Rule = PLAIN, condition: float | None = None) -> Proposal:
    """Decide from a ramp that has ended; a resolved condition number sets the momentum.

    Examples
    --------
    >>> ramp = Ramp(2.3, 1.0, best_lr=0.3, blown_lr=2.0, blown=2, over=True)
    >>> edge(ramp).lr
    0.2
    """
    lr = ramp.blown_lr / rule.divisor
    why = f"the loss was lowest at lr {ramp.best_lr:.3g} and gave way at {ramp.blown_lr:.3g}"
    return Proposal(lr, heavy_ball(condition) if condition else MOMENTUM, why)


def heavy_ball(condition: float) -> float:
    """Return the best momentum of a quadratic, ((√k-1)/(√k+1))², held within [0.5, 0.98].

    Examples
    --------
    >>> round(heavy_ball(100.0), 4), heavy_ball(1.0)
    (0.6694, 0.5)
    """
    root = math.sqrt(max(condition, 1.0))
    return min(max(((root - 1) / (root + 1)) ** 2, 0.5), 0.98)


def condition_of(values: Sequence[float], residuals: Sequence[float]) -> float | None:
    """Return λ_max/μ if the smallest positive Ritz value is resolved, else None.

    Resolved: the largest negative value is not larger than μ (no indefinite bulk around zero), and the residual of the
    smallest positive one is below a tenth of it. Networks hardly ever are.

    Examples
    --------
    >>> condition_of([1.0, 10.0], [0.01, 0.01]), condition_of([-0.5, 0.1, 10.0], [0.0, 0.0, 0.0])
    (10.0, None)
    """
    pairs = sorted(zip(values, residuals, strict=True))
    positive = [(v, r) for v, r in pairs if v > 0]
    if not positive or positive[0][1] > 0.1 * positive[0][0]:
        return None
    if any(v < 0 and -v > positive[0][0] for v, _ in pairs):
        return None
    return positive[-1][0] / positive[0][0]


VARIANTS = ("sgd", "momentum", "nesterov")


def granziol(values: Sequence[float], weights: Sequence[float], variant: str = "momentum") -> Proposal:
    """Decide as the published learner does, from Ritz values and quadrature weights of 20 Lanczos steps.

    L = max |θ|; μ: without the Ritz values of the cluster at zero (the heaviest, while they hold more than half of the
    weight), the smallest |θ| that is left.

        sgd       η = 2/(L + μ)
        momentum  η = (2/(√L + √μ))²,  β = ((√L - √μ)/(√L + √μ))²
        nesterov  η = 1/L,             β = (√L - √μ)/(√L + √μ)

    Corrected, as published → here: β of "momentum" divided by √L + μ, which changes with the unit of the loss; η of
    "nesterov" was √(μ/L), which has no unit of an lr; at most one Ritz value could be removed because weights sum to
    1, so that a cluster split in two gave μ → 0 and β → 1; "sgd" took the median of |θ| where the others take μ.
    Kept, because they are the method: negative curvature counts as positive, no noise correction, no cap, no ramp.

    Examples
    --------
    >>> granziol([0.0, 1.0, 4.0], [0.9, 0.05, 0.05])[:2]
    (0.4444444444444444, 0.1111111111111111)
    """
    if variant not in VARIANTS:
        raise ValueError(f"got variant={variant!r}; expected one of {VARIANTS}")
    pairs = sorted(((abs(v), w) for v, w in zip(values, weights, strict=True)), key=lambda pair: pair[1])
    top = max((v for v, _ in pairs), default=0.0)
    if not (math.isfinite(top) and top > 0):
        raise ValueError(f"got the largest Ritz value {top}; expected a positive, finite one")
    removed = 0.0
    while len(pairs) > 1 and removed <= 0.5 and pairs[-1][0] < 0.1 * top:
        removed += pairs.pop()[1]
    low = min(v for v, _ in pairs)
    a, b = math.sqrt(top), math.sqrt(low)
    why = f"L = {top:.3g}, μ = {low:.3g}"
    if variant == "sgd":
        return Proposal(2 / (top + low), None, why)
    if variant == "nesterov":
        return Proposal(1 / top, (a - b) / (a + b), why)
    return Proposal((2 / (a + b)) ** 2, ((a - b) / (a + b)) ** 2, why)
