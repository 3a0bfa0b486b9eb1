"""The ramp, for steps that are lr times a gradient, with or without momentum: decisions first, then their execution.

The lr doubles every three steps from far below the first critical lr, while the loss on the batch at hand is compared
with that of the initial weights on the same batch, until what had been gained is lost again, first at the lr η_x. Then
η = η_x/10, and training goes on from the weights that the ramp had at 3η: later ones have seen lrs that blow up the
norms of weights in front of a normalisation, which no lr repairs. η_x differs by a factor of about 1.5 between seeds,
the best lr by 2 between workloads at the same η_x. Sharpness alone cannot set η: at any η in a wide range it settles at
the threshold of that η (see `thresholds`), and a one-shot 2/λ at initialisation, where λ is 10 to 100 times smaller
than later, diverges. It serves as a cap afterwards, and sets the momentum where a spectrum resolves the condition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .base_optimizer import Snapshot
from .constants import DEFAULTS, TunerConstants
from .loss import LossSource
from .session import Session

REPAIRS = 2  # times that weights which are not finite are put back before the ramp counts as over


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


def ramp_lr(start: float, step: int, doubling: int = DEFAULTS.ramp_doubling) -> float:
    """Return the lr of a step of the ramp.

    Examples
    --------
    >>> ramp_lr(0.01, 6), ramp_lr(0.01, 0)
    (0.04, 0.01)
    """
    return start * 2.0 ** (step / doubling)


def is_blown(start: float, best: float, loss: float, share: float = 0.5) -> bool:
    """Say whether a loss has given back a share of what was gained since the start, or is not finite.

    A twentieth of the first loss is always granted, so that the noise of a plateau is no alarm. Scaling the loss
    changes nothing.

    Examples
    --------
    >>> is_blown(2.3, 1.0, 1.5), is_blown(2.3, 1.0, 1.7), is_blown(2.3, 2.3, 2.35), is_blown(2.3, 1.0, float("nan"))
    (False, True, False, True)
    """
    return not loss - best <= max(share * (start - best), 0.05 * abs(start))


def advance_ramp(ramp: Ramp, lr: float, loss: float, constants: TunerConstants = DEFAULTS) -> Ramp:
    """Take a look at the loss into account.

    Examples
    --------
    >>> ramp = advance_ramp(Ramp(2.3, 2.3, 0.01), 0.1, 1.5)
    >>> ramp.best_lr, ramp.over
    (0.1, False)
    >>> ramp = advance_ramp(advance_ramp(ramp, 0.4, 2.4), 0.5, 2.6)
    >>> ramp.blown_lr, ramp.over
    (0.4, True)
    """
    if is_blown(ramp.start, ramp.best, loss, constants.ramp_share):
        first = ramp.blown_lr if ramp.blown else lr
        hopeless = not loss <= ramp.start + abs(ramp.start)
        return ramp._replace(
            blown_lr=first, blown=ramp.blown + 1, over=hopeless or ramp.blown + 1 >= constants.ramp_confirm
        )
    if loss < ramp.best:
        return Ramp(ramp.start, loss, lr)
    return ramp._replace(blown_lr=lr, blown=0, over=lr > constants.ramp_range * ramp.best_lr)


def decide_lr(ramp: Ramp, constants: TunerConstants = DEFAULTS) -> float:
    """Return the lr after a ramp that has ended.

    Examples
    --------
    >>> decide_lr(Ramp(2.3, 1.0, best_lr=0.3, blown_lr=2.0, blown=2, over=True))
    0.2
    """
    return ramp.blown_lr / constants.ramp_divisor


def heavy_ball_momentum(condition: float) -> float:
    """Return the best momentum of a quadratic, ((√k-1)/(√k+1))², held within [0.5, 0.98].

    Examples
    --------
    >>> round(heavy_ball_momentum(100.0), 4), heavy_ball_momentum(1.0)
    (0.6694, 0.5)
    """
    root = math.sqrt(max(condition, 1.0))
    return min(max(((root - 1) / (root + 1)) ** 2, 0.5), 0.98)


def find_condition(values: Sequence[float], bounds: Sequence[float]) -> float | None:
    """Return λ_max/μ if the smallest positive Ritz value is resolved, else None.

    Resolved: the largest negative value is not larger than μ (no indefinite bulk around zero), and the residual of the
    smallest positive one is below a tenth of it. Networks hardly ever are.

    Examples
    --------
    >>> find_condition([1.0, 10.0], [0.01, 0.01]), find_condition([-0.5, 0.1, 10.0], [0.0, 0.0, 0.0])
    (10.0, None)
    """
    pairs = sorted(zip(values, bounds, strict=True))
    positive = [(v, r) for v, r in pairs if v > 0]
    if not positive or positive[0][1] > 0.1 * positive[0][0]:
        return None
    if any(v < 0 and -v > positive[0][0] for v, _ in pairs):
        return None
    return positive[-1][0] / positive[0][0]


class RampPhase:
    """The lr doubles every few steps; looks compare the weights with the initial ones on the batch at hand."""

    def is_due(self, session: Session) -> bool:
        """Say whether a look is due: every second step, every one after a look that did not improve."""
        state, check = session.state, session.constants.ramp_check
        return state.unseen_steps >= (check if state.ramp.last_look_improved else check // 2)

    def look(self, session: Session, source: LossSource) -> None:
        """Compare, and settle when the ramp is over."""
        state, constants = session.state, session.constants
        kept, modules = state.ramp, session.find_modules(source)
        state.unseen_steps = 0
        if not session.base.is_finite() and not kept.blown_looks and kept.repaired < REPAIRS:
            return self._repair(session)
        loss = kept.first_loss + self._gain(session, source)
        ramp = Ramp(kept.first_loss, kept.best_loss, kept.best_lr, kept.blown_lr, kept.blown_looks)
        ramp = advance_ramp(ramp, session.lr, loss, constants)
        if ramp.over:
            return self._settle(session, ramp, loss)
        kept.last_look_improved = int(loss < kept.best_loss)
        if state.steps - kept.kept[-1][0] >= constants.ramp_doubling:
            far = session.lr / (4 * constants.ramp_divisor)
            kept.kept = [each for each in kept.kept if each[1] >= far]
            kept.kept.append((state.steps, session.lr, session.base.take_snapshot(modules)))
        kept.best_loss, kept.best_lr, kept.blown_lr, kept.blown_looks = (
            ramp.best, ramp.best_lr, ramp.blown_lr, ramp.blown,
        )  # fmt: skip
        session.note("ramp", loss)

    def before_step(self, session: Session) -> None:
        """Set the lr of the ramp's step."""
        state = session.state
        if state.nominal > 0:
            lr = ramp_lr(state.ramp.first_lr, state.ramp.ramp_step, session.constants.ramp_doubling)
            state.scale = lr / state.nominal

    def after_step(self, session: Session) -> None:
        """Go on in the ramp, unless nobody looks at it."""
        state = session.state
        if state.unseen_steps <= session.constants.ramp_check and session.lr > 0:
            state.ramp.ramp_step += 1

    def _gain(self, session: Session, source: LossSource) -> float:
        """Return the loss less that of the initial weights, both on this batch; NaN where it is not finite."""
        here = session.measure(source)
        if not math.isfinite(here):
            return math.nan
        now, start = session.take_snapshot(host=False), session.state.ramp.start
        assert isinstance(start, Snapshot)
        session.base.restore(start, session.modules)
        try:
            there = session.measure(source)
        finally:
            session.base.restore(now, session.modules, hyper=True)
        return here - there

    def _repair(self, session: Session) -> None:
        """Put the last weights back: while nothing was lost yet, one bad batch has done this, not the lr."""
        ramp = session.state.ramp
        session.go_back(ramp.kept[-1])
        ramp.kept[-1] = (session.state.steps, *ramp.kept[-1][1:])
        ramp.repaired += 1
        session.note("repaired", math.nan)
        session.warn("the parameters were not finite any more; those of some steps before are back")

    def _settle(self, session: Session, ramp: Ramp, loss: float) -> None:
        """Take the lr that is decided on, from the weights of some times it."""
        state, constants = session.state, session.constants
        lr = decide_lr(ramp, constants)
        before = [kept for kept in state.ramp.kept if kept[1] <= constants.ramp_return * lr]
        back = before[-1] if before else state.ramp.kept[0]
        first = state.ramp.first_loss
        session.go_back(back)
        session.settle(lr, first)
        if session.base.learns_momentum:
            state.momentum = constants.ramp_momentum
        session.note("settled", loss)
