"""The idle phase, which ends at the first observation: the critical lr of the optimizer's own first update."""

from __future__ import annotations

import math

from torch import Tensor

from ..curvature.preconditioner import propose_update
from ..sharpness_meters.edges import bracket_rise
from .loss import VALUE, LossSource, norm, shifted
from .ratios import is_normalized, match_sizes
from .session import Session
from .state import RaceState, RampState


class Idle:
    """Nothing has been observed yet. A start that fails is repeated at distances that double."""

    def is_due(self, session: Session) -> bool:
        """Say whether a start may be tried: the first time, then within twice the budget."""
        state = session.state
        if state.nominal <= 0 or session.factor <= 0 or state.steps < state.next_attempt:
            return False
        return state.attempts < 4 or session.affords(VALUE)

    def look(self, session: Session, source: LossSource) -> None:
        """Find the first lr, and go over to the ramp or to trials."""
        state = session.state
        state.attempts += 1
        state.next_attempt = state.steps + 2 ** (state.attempts - 1)
        self._begin(session, source)
        if state.phase != "idle":
            state.attempts = 0

    def before_step(self, session: Session) -> None:
        """Leave the base as it is."""

    def after_step(self, session: Session) -> None:
        """Leave the base as it is."""

    def _begin(self, session: Session, source: LossSource) -> None:
        state, base, constants = session.state, session.base, session.constants
        if not base.is_finite():
            return session.warn("the parameters are not finite at the first observation; nothing can be tuned")
        owned = base.trained()
        if not owned:
            return session.warn("no parameter is trained (requires_grad); nothing can be tuned")
        loss = source.value()
        if not math.isfinite(loss):
            return session.warn("the loss is not finite at the first observation; the base optimizer goes on as it is")
        session.find_modules(source)
        state.spent += VALUE
        gradient = source.gradient_or_none(base.parameters())
        steps = propose_update(base.optimizer, gradient, unit=True)
        parts = zip(base.unit_of_parameters(), steps, base.parameters(), strict=True)
        mine = [(unit, u) for unit, u, p in parts if p.requires_grad]
        units, update = [unit for unit, _ in mine], [u for _, u in mine]
        ratios: list[float] = []
        if session.learn_ratios and len(set(base.units)) > 1:
            doubled = propose_update(base.optimizer, [None if g is None else 2 * g for g in gradient], unit=True)
            doubled = [u for u, p in zip(doubled, base.parameters(), strict=True) if p.requires_grad]
            if is_normalized(update, doubled):
                ratios = match_sizes(session, update, units)
            else:
                ratios = find_first_ratios(session, source, owned, update, units, loss)
            update = [u * ratios[unit] for u, unit in zip(update, units, strict=True)]
        critical = critical_lr(source, owned, update, loss, constants.search_limit)
        if not 0 < critical < math.inf:
            return session.warn("no lr along the first update lowers the loss; the base optimizer goes on as it is")
        if base.learns_momentum:
            state.momentum = constants.ramp_momentum if base.heavy else constants.trial_beta
        state.unseen_steps, state.ratios = 0, ratios
        if base.adaptive:
            state.phase, state.scale = "trials", critical * constants.start_share / state.nominal
            lrs = [critical * constants.trial_centre * factor for factor in constants.trial_factors]
            origin = session.take_snapshot()
            state.race = RaceState(lrs=lrs, done=-constants.trial_warm, length=constants.trial_batches,
                                   centre=critical * constants.trial_centre, origin=origin)  # fmt: skip
            state.hold.first_loss = loss
        else:
            first = critical * constants.start_share * (1 - session.momentum if base.heavy else 1.0)
            kept = session.take_snapshot()
            state.phase, state.scale = "ramp", first / state.nominal
            state.ramp = RampState(first_lr=first, first_loss=loss, best_loss=loss, best_lr=first, start=kept,
                                   kept=[(state.steps, first, kept)])  # fmt: skip
        session.note("start", loss)


def find_first_ratios(
    session: Session, source: LossSource, owned: list[Tensor], update: list[Tensor], units: list[int], loss: float
) -> list[float]:
    """Return the ratios of the units' critical lrs to the first unit's; 1 where a unit has none.

    Parameters
    ----------
    owned, update, units : the parameters, the optimizer's first update of each, and the unit each belongs to
    """
    found = []
    for unit in range(max(session.base.units) + 1):
        mine = [k for k, each in enumerate(units) if each == unit]
        part, way = [owned[k] for k in mine], [update[k] for k in mine]
        found.append(critical_lr(source, part, way, loss, session.constants.search_limit) if mine else math.inf)
    usable = [lr for lr in found if 0 < lr < math.inf]
    usual = math.exp(sum(math.log(lr) for lr in usable) / len(usable)) if usable else 1.0
    found = [lr if 0 < lr < math.inf else usual for lr in found]
    return [lr / found[0] for lr in found]


def critical_lr(source: LossSource, owned: list[Tensor], update: list[Tensor], loss: float, limit: int = 16) -> float:
    """Return the lr along an update between one that lowers the loss and one four times larger that raises it.

    Forward passes only. The search begins with a step of a hundredth of the parameters' norm, so neither the unit of
    the loss nor the lr in force matter. 0 or infinity if nothing is found.

    Examples
    --------
    >>> import torch
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> source = LossSource(lambda batch: (w**2).sum(), None)               # rises beyond lr 1 along the gradient 2w
    >>> critical_lr(source, [w], [torch.tensor([2.0])], 1.0)
    0.64
    """
    size = norm(update)
    if not 0 < size < math.inf:
        return 0.0

    def rises(lr: float) -> bool:
        with shifted(owned, update, -lr):
            return not source.value() <= loss

    low, high = bracket_rise(rises, 0.01 * (norm(owned) or 1.0) / size, factor=4.0, limit=limit)
    return math.sqrt(low * high) if 0 < low and high < math.inf else (0.0 if low == 0 else math.inf)
