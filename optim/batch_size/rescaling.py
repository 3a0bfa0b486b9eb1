"""Rescale an optimizer, and the schedulers on it, for a new batch size: the rules of `rule_choice` applied in place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..batch_noise.sharpness_laws import SharpnessLaw, fit_sharpness
from .rule_choice import RULES, Change, Facts, Rule
from .schedules import stretch

MEASURED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # in the study behind "auto"
# weight decay apart from the gradient; Muon came with torch 2.9
MUON: Any = getattr(torch.optim, "Muon", ())
DECOUPLED = tuple(getattr(torch.optim, name) for name in ("AdamW", "Muon", "Adafactor") if hasattr(torch.optim, name))


class ScalingWarning(UserWarning):
    """A rule was applied where it is not known to hold."""


def facts_of(
    optimizer: torch.optim.Optimizer,
    old_batch: float,
    new_batch: float,
    *,
    noise_scale: float | None = None,
    sharpness: SharpnessLaw | Mapping[float, float] | None = None,
) -> Facts:
    """Read off an optimizer what rules need to know.

    Examples
    --------
    >>> facts_of(torch.optim.AdamW([torch.ones(1)]), 32, 64).betas
    (0.9, 0.999)
    """
    group = optimizer.param_groups[0]
    betas = tuple(float(b) for b in group["betas"][:2]) if "betas" in group else None
    base = getattr(optimizer, "base", optimizer)  # of a wrapper
    decoupled = isinstance(base, DECOUPLED) or bool(group.get("decoupled_weight_decay", False))
    law = sharpness if sharpness is None or isinstance(sharpness, SharpnessLaw) else fit_sharpness(sharpness)
    adaptive = ("eps" in group or "betas" in group) and not isinstance(base, MUON)
    measured = type(base) in MEASURED
    return Facts(old_batch, new_batch, noise_scale, law, adaptive, decoupled, betas, _eps_rules(optimizer), measured)  # type: ignore[arg-type]


def _eps_rules(optimizer: torch.optim.Optimizer) -> bool | None:
    """Return whether ε exceeds √v̂ for most parameters; None before the first step or without second moments."""
    below = total = 0
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            if "exp_avg_sq" in state and "betas" in group and isinstance(group.get("eps"), float | int):
                v = state["exp_avg_sq"] / (1 - float(group["betas"][1]) ** float(state["step"]))
                below += int((v.sqrt() < group["eps"]).sum())
                total += v.numel()
    return None if total == 0 else 2 * below > total


def scale_hyperparameters(
    optimizer: torch.optim.Optimizer,
    *,
    old_batch: float,
    new_batch: float,
    rule: str | Rule = "auto",
    noise_scale: float | None = None,
    sharpness: SharpnessLaw | Mapping[float, float] | None = None,
    scheduler: Any = None,
    interval: str = "epoch",
) -> Change:
    """Change lr, momentum or betas, eps and weight decay in place for a new batch size, by a rule that explains itself.

    Ratios between groups stay. What schedulers keep in groups (initial_lr, max_lr, min_lr) changes with lr; pass the
    scheduler, or a list, so that the base_lrs they hold change too, and their lengths if they count steps. Batch sizes
    count samples per optimizer step over all devices and accumulated micro-batches. Nothing happens when both are
    equal. All is written or, where anything cannot be, nothing. Outside a rule's validity ("auto": where nobody
    vouches for it) no lr is raised: then nothing is written, and the change that comes back says so.

    Parameters
    ----------
    optimizer : any torch optimizer
    old_batch, new_batch : samples per step
    rule : a name in `RULES` or a function from `Facts` to `Change`
    noise_scale : gradient noise scale in samples (`gradient_noise_scale`), which validity hangs on
    sharpness : {batch size: top eigenvalue of batches}, or a fitted law, for the random-matrix rule
    scheduler : one of torch's, or a list of them
    interval : what scheduler.step() counts: "epoch", whose samples no batch size changes, or "step": then what lies
        ahead of warm-up and schedule takes κ times fewer steps, so that it covers the same samples

    Returns
    -------
    Change : the factors, whether they are valid, and why

    Warns
    -----
    ScalingWarning : the rule is not valid here, or that could not be checked; or a scheduler that counts steps cannot
        be converted (LambdaLR)

    Examples
    --------
    >>> sgd = torch.optim.SGD([torch.ones(1)], lr=0.1)
    >>> change = scale_hyperparameters(sgd, old_batch=128, new_batch=1024, rule="auto", noise_scale=2000)
    >>> round(sgd.param_groups[0]["lr"], 4), change.why
    (0.563, 'noise_scale: B_n = 2e+03; compared with measured optima')
    """
    if isinstance(rule, str) and rule not in RULES:
        raise ValueError(f"got rule={rule!r}; expected one of {list(RULES)} or a function of Facts")
    if interval not in ("epoch", "step"):
        raise ValueError(f"got interval={interval!r}; expected 'epoch' or 'step': what scheduler.step() counts")
    facts = facts_of(optimizer, old_batch, new_batch, noise_scale=noise_scale, sharpness=sharpness)
    if facts.ratio == 1:
        return Change(valid=True, why="the batch size did not change")
    change = (RULES[rule] if isinstance(rule, str) else rule)(facts)
    if not change.valid:
        state = "not valid here" if change.valid is False else "not known to be valid here"
        name = rule if isinstance(rule, str) else getattr(rule, "__name__", "rule")
        safe = restrict_change(change) if change.valid is False or rule == "auto" else change
        note = (
            ""
            if safe is change
            else "; nothing was changed"
            + (", rule='linear' or another by name does so all the same" if change.valid is None else "")
        )
        warnings.warn(f"rule {name!r} is {state}: {change.why}{note}", ScalingWarning, stacklevel=2)
        change = safe
    apply_change(optimizer, change, scheduler)
    if interval == "step":
        stretch_schedules(_listed(scheduler), change, facts.ratio)
    return change


def restrict_change(change: Change) -> Change:
    """Return a change that nobody vouches for without what could do harm: nothing at all where it raises the lr.

    Examples
    --------
    >>> restrict_change(Change(lr=4.0, why="linear")).lr, restrict_change(Change(lr=0.25)).lr
    (1.0, 0.25)
    """
    if change.lr <= 1 and change.one_minus_beta1 <= 1:
        return change
    return Change(valid=change.valid, why=f"{change.why}; nothing was changed")


def apply_change(optimizer: torch.optim.Optimizer, change: Change, scheduler: Any = None) -> None:
    """Write a change into all groups and, if given, into one scheduler or several.

    Examples
    --------
    >>> adam = torch.optim.Adam([torch.ones(1)], lr=0.001)
    >>> apply_change(adam, Change(lr=2.0, one_minus_beta2=4.0))
    >>> adam.param_groups[0]["lr"], round(adam.param_groups[0]["betas"][1], 6)
    (0.002, 0.996)
    """
    written = [(group, _changed_entries(group, change)) for group in optimizer.param_groups]  # fails before it writes
    for group, entries in written:
        for key, value in entries.items():
            if isinstance(group[key], torch.Tensor):
                group[key].copy_(value)  # in place: compiled steps and schedulers hold this tensor
            else:
                group[key] = value
    for each in _listed(scheduler):
        _scale_scheduler(each, change.lr)


def _changed_entries(group: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """Return what becomes of a group's entries; those that are no numbers (Adafactor's two ε, an absent lr) stay."""
    entries: dict[str, Any] = {}
    for key, factor in _keys(change):
        if isinstance(group.get(key), torch.Tensor | float | int):
            entries[key] = group[key] * factor
    if "betas" in group:
        beta1, beta2, *rest = (float(b) for b in group["betas"])
        beta1 = 1 - change.one_minus_beta1 * (1 - beta1)
        beta2 = (1 - change.one_minus_beta2 * (1 - beta2)) ** change.beta2_power
        entries["betas"] = (min(max(beta1, 0.0), 1.0), min(max(beta2, 0.0), 1.0), *rest)
    if change.one_minus_beta1 != 1 and group.get("momentum"):  # without momentum there is none to change
        entries["momentum"] = max(1 - change.one_minus_beta1 * (1 - group["momentum"]), 0.0)
    return entries


def stretch_schedules(schedulers: Sequence[Any], change: Change, ratio: float) -> None:
    """Let schedulers that count steps cover the samples that a change says; warn of those that cannot be converted.

    Examples
    --------
    >>> adam = torch.optim.Adam([torch.ones(1)], lr=0.001)
    >>> polynomial = torch.optim.lr_scheduler.PolynomialLR(adam, 1000)
    >>> stretch_schedules([polynomial], Change(), 4.0)
    >>> polynomial.total_iters
    250
    """
    names = [name for each in schedulers for name in stretch(each, change.schedule / ratio, warmup=change.warmup)]
    if names:
        warnings.warn(
            f"{' and '.join(dict.fromkeys(names))} counts steps by a function unknown here: warm-up and length stay as "
            f"many steps, {ratio:.3g} times the samples. Build it from LinearLR, CosineAnnealingLR and SequentialLR, "
            "which are converted, or write it for the new batch size",
            ScalingWarning,
            stacklevel=3,
        )


def _listed(scheduler: Any) -> list[Any]:
    listed = scheduler if isinstance(scheduler, list | tuple) else [scheduler]
    return [each for each in listed if each is not None]


def _keys(change: Change) -> list[tuple[str, float]]:
    lrs = [(key, change.lr) for key in ("lr", "initial_lr", "max_lr", "min_lr")]
    return [*lrs, ("eps", change.eps), ("weight_decay", change.weight_decay)]


def _scale_scheduler(scheduler: Any, factor: float) -> None:
    """Scale the base lrs of a scheduler, and of those that it is made of."""
    for name in ("base_lrs", "_last_lr", "min_lrs", "max_lrs"):
        if isinstance(values := getattr(scheduler, name, None), list):
            setattr(scheduler, name, [value * factor for value in values])
    if isinstance(eta_min := getattr(scheduler, "eta_min", None), int | float):
        scheduler.eta_min = eta_min * factor
    for inner in getattr(scheduler, "_schedulers", ()):
        _scale_scheduler(inner, factor)
