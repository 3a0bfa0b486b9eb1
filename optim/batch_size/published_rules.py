"""Published batch-size rules as pure functions, each with its source and the range in which it may be believed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from .facts import Change, Facts


def linear(facts: Facts) -> Change:
    """Multiply lr by κ; Goyal et al., arXiv 1706.02677 (there with 5 epochs of warm-up).

    Examples
    --------
    >>> linear(Facts(256, 8192)).lr
    32.0
    """
    if facts.adaptive:
        return Change(facts.ratio, valid=False, why="linear scaling is a rule for SGD")
    return Change(facts.ratio, **_near(facts.ratio, facts.gain))


def square_root(facts: Facts) -> Change:
    """Multiply lr by √κ; Krizhevsky, arXiv 1404.5997 (variance matching), for Adam Granziol et al., JMLR 23 (2022).

    Examples
    --------
    >>> square_root(Facts(256, 1024)).lr
    2.0
    """
    if not facts.adaptive:
        return Change(math.sqrt(facts.ratio), valid=None, why="square-root scaling of SGD lost to linear in 1706.02677")
    gain = facts.gain
    return Change(math.sqrt(facts.ratio), **_near(math.sqrt(facts.ratio), None if gain is None else math.sqrt(gain)))


def _near(factor: float, law: float | None) -> dict[str, Any]:
    """Compare a power law with the one that saturates at the noise scale."""
    if law is None:
        return {"valid": None, "why": "noise scale unknown: whether noise rules at these batch sizes was not checked"}
    off = abs(math.log(factor / law))
    return {
        "valid": off <= math.log(1.2),
        "why": f"{100 * (math.exp(off) - 1):.0f} % from the law that saturates at B_n",
    }


def noise_scale(facts: Facts) -> Change:
    """Let lr saturate at the noise scale: η ∝ 1/(1 + B_n/B), the best step on a local quadratic.

    McCandlish et al., arXiv 1812.06162. Equal to AdaScale's gain (Johnson et al., arXiv 2007.05105).

    Examples
    --------
    >>> noise_scale(Facts(100, 300, noise_scale=300)).lr
    2.0
    """
    if facts.gain is None:
        raise ValueError("this rule needs noise_scale; measure it with gradient_noise_scale or NoiseScaleMonitor")
    valid = not facts.adaptive
    return Change(facts.gain, valid=valid, why="measured noise scale" if valid else "a rule for SGD; see adam_scale")


def adascale_gain(variance: float, square: float, ratio: float) -> float:
    """Return AdaScale's gain (var + sqr)/(var/κ + sqr), between 1 and κ: one step at κ·B₀ is worth this many at B₀.

    variance: of the mean gradient at B₀, summed over entries; square: squared norm of the expected gradient. Johnson et
    al., arXiv 2007.05105. The schedule advances by the gain per step.

    Examples
    --------
    >>> adascale_gain(3.0, 1.0, 3.0)
    2.0
    """
    if variance < 0 or square < 0 or ratio <= 0 or variance + square == 0:
        raise ValueError(f"got variance={variance}, square={square}, ratio={ratio}; expected >= 0 and not all 0")
    return (variance + square) / (variance / ratio + square)


def adascale(facts: Facts) -> Change:
    """Multiply lr by AdaScale's gain r; the schedule, counted in samples, shrinks or grows by κ/r.

    Examples
    --------
    >>> change = adascale(Facts(100, 300, noise_scale=300))
    >>> change.lr, change.schedule
    (2.0, 1.5)
    """
    change = noise_scale(facts)
    return replace(change, schedule=facts.ratio / change.lr)


def adam_scale(facts: Facts) -> Change:
    """Multiply lr by √ of AdaScale's gain; a heuristic of AdaptDL (Qiao et al., OSDI 2021).

    Examples
    --------
    >>> round(adam_scale(Facts(100, 300, noise_scale=300, adaptive=True)).lr, 4)
    1.4142
    """
    gain = noise_scale(facts).lr
    return Change(math.sqrt(gain), valid=facts.adaptive, why="measured noise scale; heuristic for adaptive optimizers")


def random_matrix(facts: Facts) -> Change:
    """Keep lr·λ'(B) constant with the measured law of batch sharpness; after Granziol et al., JMLR 23 (2022).

    Adam: √κ while ε is below √v̂, SGD's law where ε rules.

    Examples
    --------
    >>> from krylearn.optim import fit_sharpness
    >>> law = fit_sharpness({8: 12.5, 32: 5.0, 128: 3.125})
    >>> round(random_matrix(Facts(8, 128, sharpness=law)).lr, 3)
    4.0
    """
    if facts.adaptive and not facts.eps_rules:
        why = "ε below √v̂: square root" if facts.eps_rules is False else "whether ε is below √v̂ is unknown"
        return Change(math.sqrt(facts.ratio), valid=None if facts.eps_rules is None else True, why=why)
    law = facts.sharpness
    if law is None:
        raise ValueError("this rule needs sharpness=fit_sharpness({batch size: top eigenvalue, ...})")
    regimes = [law.regime(b) for b in (facts.old_batch, facts.new_batch)]
    valid = "undecided" not in regimes and law.inside(facts.old_batch) and law.inside(facts.new_batch)
    where = "" if valid else "; more than a factor 4 outside what was measured, or no law fits"
    why = f"{law.model} law, {regimes[0]} to {regimes[1]}{where}"
    return Change(law(facts.old_batch) / law(facts.new_batch), valid=valid, why=why)


def malladi(facts: Facts) -> Change:
    """Keep the stochastic differential equation of Adam: lr·√κ, 1-β → κ(1-β), ε/√κ; Malladi et al., arXiv 2205.10287.

    Valid while gradients are mostly noise and κ(1-β) < 1.

    Examples
    --------
    >>> change = malladi(Facts(32, 128, noise_scale=4000, adaptive=True, betas=(0.9, 0.999)))
    >>> change.lr, change.one_minus_beta2, change.eps, change.valid
    (2.0, 4.0, 0.5, True)
    """
    k, betas = facts.ratio, facts.betas or (0.0, 0.0)
    room = all(k * (1 - beta) < 1 for beta in betas)
    noisy = None if facts.noise_scale is None else max(facts.old_batch, facts.new_batch) <= facts.noise_scale
    valid = False if not (room and facts.adaptive) or noisy is False else noisy
    why = f"κ(1-β) < 1: {room}; batches below the noise scale: {'unknown' if noisy is None else noisy}"
    scale = k if room and facts.adaptive else 1.0
    return Change(math.sqrt(k), scale, scale, eps=1 / math.sqrt(k), valid=valid, why=why)


def surge(facts: Facts) -> Change:
    """Let lr rise and fall as √x/(1+x), x = B/B_n, with its peak at the noise scale; Li et al., arXiv 2405.14578.

    The closed form falls to zero for large batches, the paper's measurements do not: valid up to 3 B_n.

    Examples
    --------
    >>> surge(Facts(100, 400, noise_scale=400, adaptive=True)).lr
    1.25
    """
    if facts.noise_scale is None:
        raise ValueError("this rule needs noise_scale; measure it with gradient_noise_scale or NoiseScaleMonitor")
    x, y = facts.old_batch / facts.noise_scale, facts.new_batch / facts.noise_scale
    valid = facts.adaptive and max(x, y) <= 3
    return Change(math.sqrt(facts.ratio) * (1 + x) / (1 + y), valid=valid, why=f"B/B_n from {x:.3g} to {y:.3g}")


def half_life(facts: Facts) -> Change:
    """Keep the half-life of second moments in samples: β₂ → β₂^κ, lr and β₁ unchanged; Marek et al., arXiv 2507.07101.

    Examples
    --------
    >>> half_life(Facts(1, 512, adaptive=True)).beta2_power
    512.0
    """
    sizes = facts.old_batch, facts.new_batch
    valid = facts.adaptive and max(sizes) <= 4096
    return Change(beta2_power=facts.ratio, valid=valid, why="language models with B = 1 to 4096; lr moves little there")


def decay(facts: Facts) -> Change:
    """Keep B/(lr·wd·samples): decoupled weight decay grows with κ at fixed lr; Bergsma et al., arXiv 2505.13738.

    Examples
    --------
    >>> decay(Facts(64, 128, adaptive=True, decoupled=True)).weight_decay
    2.0
    """
    return Change(weight_decay=facts.ratio, valid=facts.decoupled, why="for decoupled weight decay")
