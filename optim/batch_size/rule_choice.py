"""New hyper-parameters for a new batch size: every published rule as a pure function, and one that chooses.

A rule maps `Facts` to a `Change`, factors for what the optimizer has now, and says whether it is valid there: True,
False, or None if that was not checked. κ = B/B₀ = new/old batch size. B_n is the gradient noise scale.

rule           lr                                   also                         valid
auto           SGD: (1 + B_n/B₀)/(1 + B_n/B)        ε/√κ; lr·wd per sample       batches <= B_n, κ within 8:
               Adam: √κ                                                          compared with measured optima
linear         κ                                    -                            noise rules: within 20 % of noise_scale
square_root    √κ                                   -                            within 20 % of adam_scale
noise_scale    (1 + B_n/B₀)/(1 + B_n/B)             -                            B_n known (local quadratic)
adascale       the same from variances              schedule advances by the gain
adam_scale     √ of that                            -                            B_n known (heuristic)
random_matrix  λ'(B₀)/λ'(B) of a fitted law;        -                            law fits, sizes measured (x4)
               Adam: √κ, SGD's law if ε > √v̂
malladi        √κ                                   1-β → κ(1-β), ε → ε/√κ       B <= B_n, κ(1-β) < 1
surge          √x/(1+x), x = B/B_n                  -                            B <= 3 B_n
half_life      1                                    β₂ → β₂^κ                    language models, published range
decay          1                                    wd → κ·wd (at fixed lr)      decoupled weight decay

Sources are in the docstrings. What another paper than the one named would do is not mixed in: Malladi keeps the path of
training, Marek the optimum, and they answer different questions. `krylearn study batch-scaling` measures where the best
lr is and how far each rule is from it; docs/studies/batch-size.md shows the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .facts import Change, Facts, Rule
from .published_rules import (
    adam_scale,
    adascale,
    adascale_gain,
    decay,
    half_life,
    linear,
    malladi,
    noise_scale,
    random_matrix,
    square_root,
    surge,
)

__all__ = [
    "RULES", "Change", "Facts", "Rule", "adam_scale", "adascale", "adascale_gain", "auto", "decay", "half_life",
    "linear", "malladi", "noise_scale", "random_matrix", "square_root", "surge", "warmup_steps",
]  # fmt: skip

CHECKED = 8.0  # largest ratio of batch sizes at which `auto` holds in the study
ABOVE = 1.0  # largest batch, in noise scales, likewise: above, curvature limits lr more than noise does
SATURATED = 2.0  # noise scales at which Adam's lr stops growing


def auto(facts: Facts) -> Change:
    """Choose by optimizer and noise scale, as the measured optima say; everything else stays per sample.

    SGD: lr saturates at the noise scale, lr·(1 + B_n/B₀)/(1 + B_n/B); momentum stays. Adaptive: lr·√κ up to 2 B_n and
    no more beyond; betas stay, ε/√κ as √v̂ does in noise. Decoupled weight decay keeps lr·wd per sample, warm-up and
    schedule keep their samples. Measure the noise scale halfway through a training at the old batch size: it grows
    along the way. Without it SGD gets κ, Adam √κ, and nobody vouches for that.

    Valid where measured optima bear it out: SGD, Adam, AdamW; batch sizes a factor 8 apart at most, none above B_n.
    Elsewhere `scale_hyperparameters` raises nothing by it.
    Sharpness is not used: the largest stable lr says little about the best one there (docs/studies/batch-size.md).

    Examples
    --------
    >>> change = auto(Facts(64, 192, noise_scale=192))
    >>> change.lr, change.valid
    (2.0, True)
    >>> print(auto(Facts(64, 1024, noise_scale=192)).why)  # doctest: +NORMALIZE_WHITESPACE
    noise_scale: B_n = 192; not borne out by measured optima: batches above B_n, batch sizes more than a factor 8
    apart
    """
    name, lr = _factor(facts)
    limits = []
    if facts.noise_scale is None:
        limits.append("the noise scale is unknown (measure it: gradient_noise_scale, NoiseScaleMonitor)")
    elif max(facts.old_batch, facts.new_batch) > ABOVE * facts.noise_scale:
        limits.append("batches above B_n")
    if not facts.measured:
        limits.append("no study has measured this optimizer")
    if not 1 / CHECKED <= facts.ratio <= CHECKED:
        limits.append(f"batch sizes more than a factor {CHECKED:g} apart")
    known = "" if facts.noise_scale is None else f"B_n = {facts.noise_scale:.3g}; "
    what = "not borne out by measured optima: " + ", ".join(limits) if limits else "compared with measured optima"
    return Change(
        lr,
        eps=1 / math.sqrt(facts.ratio) if facts.adaptive else 1.0,
        weight_decay=facts.ratio / lr if facts.decoupled else 1.0,
        valid=None if limits else True,
        why=f"{name}: {known}{what}",
    )


def _factor(facts: Facts) -> tuple[str, float]:
    if not facts.adaptive:
        return ("linear", facts.ratio) if facts.gain is None else ("noise_scale", facts.gain)
    limit = math.inf if facts.noise_scale is None else SATURATED * facts.noise_scale
    return "square_root", math.sqrt(min(facts.new_batch, limit) / min(facts.old_batch, limit))


RULES: Mapping[str, Rule] = {
    "auto": auto, "linear": linear, "square_root": square_root, "noise_scale": noise_scale, "adascale": adascale,
    "adam_scale": adam_scale, "random_matrix": random_matrix, "malladi": malladi, "surge": surge,
    "half_life": half_life, "decay": decay,
}  # fmt: skip


def warmup_steps(old_steps: int, facts: Facts, *, rule: str = "samples") -> int:
    """Return the warm-up in steps: the same samples, or as LEGW asks (You et al., arXiv 1901.08256) κ times as many.

    Examples
    --------
    >>> warmup_steps(1000, Facts(256, 1024)), warmup_steps(1000, Facts(256, 1024), rule="legw")
    (250, 1000)
    """
    if rule not in ("samples", "legw"):
        raise ValueError(f"got rule={rule!r}; expected 'samples' or 'legw'")
    return max(1, round(old_steps / facts.ratio)) if rule == "samples" else old_steps
