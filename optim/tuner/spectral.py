"""Policies of spectra: the published learner, and whatever the user decides from Ritz values; what they are made of.

`granziol` is the published learner (Granziol, Zohren, Roberts, arXiv 2006.09092, code of GadamX), defects corrected.
The largest eigenvalue by warm-started products and a Lanczos spectrum, both on one batch, serve the default policy too.
Where the base divides by second moments P, the operator is P^(-1/2) H P^(-1/2), times the ratios of the groups' lrs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from krylearn.solvers.lanczos import ritz_pairs, tridiagonalize
from torch import Tensor

from ..curvature.preconditioner import inverse_root
from .loss import LossSource, dot, norm
from .session import Session

STEPS = 20  # products of a policy's spectrum


class Proposal(NamedTuple):
    """What a policy decides: lr of the first group, momentum (None: leave it), and why in words."""

    lr: float
    momentum: float | None
    why: str


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


class FollowSpectrum:
    """A policy of Ritz values: a spectrum every so many steps, its lr and momentum held constant in between."""

    def __init__(self, policy: Callable[[list[float], list[float]], Proposal], every: int) -> None:
        self.policy, self.every = policy, every

    def is_due(self, session: Session) -> bool:
        """Say whether the next spectrum is due."""
        state = session.state
        return state.phase == "idle" or state.steps >= state.curvature.next_measurement

    def look(self, session: Session, source: LossSource) -> None:
        """Take a spectrum and do what the policy says."""
        state = session.state
        pairs = find_spectrum(source, session.base.optimizer, STEPS, session.rng)
        proposal = self.policy(pairs.values.tolist(), pairs.weights.tolist())
        state.scale, state.phase = proposal.lr / state.nominal, "spectral"
        state.curvature.next_measurement = state.steps + self.every
        if session.base.learns_momentum and proposal.momentum is not None:
            state.momentum = proposal.momentum
        state.curvature.sharpness = max(abs(v) for v in pairs.values.tolist())
        session.note("sharpness", math.nan)

    def before_step(self, session: Session) -> None:
        """Nothing changes between two spectra."""

    def after_step(self, session: Session) -> None:
        """Nothing changes between two spectra."""


def find_top_curvature(
    source: LossSource, base: torch.optim.Optimizer, start: list[Tensor] | None, seed: int, products: int = 2
) -> tuple[float, list[Tensor]]:
    """Return a Rayleigh quotient after some steps of the power method, and the vector to go on with.

    A lower bound of the largest eigenvalue (in size) that tightens from call to call.

    Raises
    ------
    ValueError : the product vanishes or is not finite

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> source = LossSource(lambda batch: (torch.tensor([1.0, 5.0]) * w**2).sum(), None)
    >>> round(find_top_curvature(source, torch.optim.SGD([w], lr=0.1), None, 0, products=20)[0], 4)
    10.0
    """
    owned = [p for group in base.param_groups for p in group["params"] if p.requires_grad]
    roots = list(inverse_root(base, {str(k): p for k, p in enumerate(owned)}).values())
    product = source.products(owned)
    fits = start is not None and [x.shape for x in start] == [p.shape for p in owned]
    v = start if fits and start is not None else random_like(owned, seed)
    value, before = math.nan, None
    for _ in range(products):
        size = norm(v)
        v = [x / size for x in v]
        w = [r * h for r, h in zip(roots, product([r * x for r, x in zip(roots, v, strict=True)]), strict=True)]
        if before is not None and not _agree(dot(before, w), size, norm(w), v[0].dtype) and not source.by_differences:
            source.by_differences = True  # uᵀHv is not vᵀHu: torch's second derivatives are wrong here
            return find_top_curvature(source, base, start, seed, products)
        before = v
        value, v = dot(v, w), w
    if not math.isfinite(value) or norm(v) == 0:
        raise ValueError(f"got a Rayleigh quotient of {value}")
    return value, v


def find_spectrum(source: LossSource, base: torch.optim.Optimizer, steps: int, seed: int) -> Any:
    """Return Ritz pairs of the Hessian on the batch: `steps` products from a start vector fixed by the seed.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> source = LossSource(lambda batch: (torch.tensor([1.0, 5.0]) * w**2).sum(), None)
    >>> [round(v, 4) for v in find_spectrum(source, torch.optim.SGD([w], lr=0.1), 2, 0).values.tolist()]
    [2.0, 10.0]
    """
    owned = [p for group in base.param_groups for p in group["params"] if p.requires_grad]
    product, sizes = source.products(owned), [p.numel() for p in owned]
    one, other = random_like(owned, seed + 1), random_like(owned, seed + 2)
    image = product(one)
    if not _agree(dot(other, image), dot(one, product(other)), norm(other) * norm(image), one[0].dtype):
        source.by_differences = True
        product = source.products(owned)

    def flat(v: Tensor) -> Tensor:
        parts = [x.reshape(p.shape) for x, p in zip(v.split(sizes), owned, strict=True)]
        return torch.cat([h.reshape(-1) for h in product(parts)])

    start = torch.cat([x.reshape(-1) for x in random_like(owned, seed)])
    return ritz_pairs(tridiagonalize(flat, start, steps))


def _agree(a: float, b: float, size: float, dtype: torch.dtype) -> bool:
    """Say whether two values of a symmetric form agree, up to what rounding of a vector of this size allows."""
    return not abs(a - b) > torch.finfo(dtype).eps ** (1 / 3) * size


def random_like(owned: list[Tensor], seed: int) -> list[Tensor]:
    """Return normal numbers shaped as the parameters, the same on every device.

    Examples
    --------
    >>> random_like([torch.zeros(2)], 0)[0].shape
    torch.Size([2])
    """
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator).to(p.device, p.dtype) for p in owned]
