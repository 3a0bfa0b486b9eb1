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

No gradient is taken beside those of the steps, no loss is asked for: two inner products a step, and for that time three
copies of the parameters and one of the gradients. Not where a step has no gradients, or sparse ones; no more after a
blow-up, or after a failure, which is a warning.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base_optimizer import get_local
from .constants import DEFAULTS, TunerConstants
from .loss import mean_over_ranks
from .session import Session, describe_error


def measure_drift(way: float, step: float, momentum: float) -> float:
    """Return q from the sums over a block; NaN where steps do not go down the gradient.

    Parameters
    ----------
    way : sum of <g, θ - θ_a>;  step : sum of <g, θ before - θ after the step>;  momentum : β

    Examples
    --------
    >>> measure_drift(-2.0, 0.5, 0.75), measure_drift(1.0, -1.0, 0.0)
    (-2.0, nan)
    """
    return 2 * (1 - momentum) * way / step if step > 0 else math.nan


def count_doublings(
    block: int, q: float, raised: float, adaptive: bool = False, constants: TunerConstants = DEFAULTS
) -> float:
    """Return by how many doublings the lr is raised after a block, given how many it has been raised by.

    Examples
    --------
    >>> count_doublings(0, -3.0, 0.0), count_doublings(0, -0.5, 0.0), count_doublings(1, 0.3, 0.0)
    (1.0, 0.5, 0.0)
    """
    if not math.isfinite(q):
        return 0.0
    target = (constants.drift_adaptive if adaptive else constants.drift_targets)[block]
    return min(
        max(constants.drift_gain * (target - q), 0.0), constants.drift_most, max(constants.drift_raise - raised, 0.0)
    )


SHORT = 2**20  # entries up to which an inner product in float32 is exact enough: the noise of batches is far larger


class Drift:
    """A part of holding: the first hundred steps after the start are watched, and the lr raised if it is too low."""

    def __init__(self) -> None:
        self._owned: list[Tensor] = []
        self._gradient = self._before = torch.empty(0)
        self._watching = False

    def before_step(self, session: Session) -> None:
        """Copy gradients and weights ahead of a step, if this step is watched."""
        self._watching = False
        drift, hold = session.state.drift, session.state.hold
        if drift.blocks_left <= 0:
            return
        if hold.rescues or not session.is_high:
            drift.anchors = []
            return
        if len(drift.anchors) == 1 and 0 < drift.steps_in_block < session.constants.drift_block - 1:
            drift.steps_in_block += 1  # the first block only makes a way: nothing is compared with it yet
            return
        self._owned = [p for p in session.base.trained() if p.grad is not None]
        grads = [p.grad for p in self._owned if p.grad is not None]
        self._watching = bool(grads) and not any(g.is_sparse for g in grads)
        if self._watching:
            self._guard(session, self._copy)

    def after_step(self, session: Session) -> None:
        """Add to the sums what the step has shown; at the end of a block raise the lr, if that is due."""
        if self._watching:
            self._guard(session, self._add)
            self._owned, self._gradient, self._before = [], torch.empty(0), torch.empty(0)

    def _guard(self, session: Session, action: object) -> None:
        try:
            action(session)  # type: ignore[operator]
        except Exception as error:  # whatever fails in a look, the training that is looked at goes on
            self._watching, session.state.drift.blocks_left, session.state.drift.anchors = False, 0, []
            session.warn(f"gradients and steps could not be compared ({describe_error(error)}); the lr stays")

    def _copy(self, session: Session) -> None:
        self._before = flatten(self._owned)
        if session.state.drift.anchors:
            self._gradient = flatten([p.grad for p in self._owned if p.grad is not None])

    def _add(self, session: Session) -> None:
        drift, state, constants = session.state.drift, session.state, session.constants
        if not drift.anchors or drift.anchors[0].shape != self._before.shape:
            drift.anchors = [self._before]
            drift.steps_in_block, drift.drift_slope_sum, drift.step_slope_sum = 0, 0.0, 0.0
        if len(drift.anchors) > 1:
            state.spent += constants.drift_cost
            drift.drift_slope_sum += self._slope(session, drift.anchors[0])
            drift.step_slope_sum += self._slope(session, flatten(self._owned))
        drift.steps_in_block += 1
        if drift.steps_in_block == constants.drift_block:
            if len(drift.anchors) > 1:
                self._decide(session)
            drift.anchors = [drift.anchors[-1], flatten(self._owned)] if drift.blocks_left > 0 else []
            drift.steps_in_block, drift.drift_slope_sum, drift.step_slope_sum = 0, 0.0, 0.0

    def _slope(self, session: Session, other: Tensor) -> float:
        """Return the inner product of the gradient with the way from there to where the step began."""
        way = torch.sub(self._before, other.to(self._before.device))
        exact = way.dtype in (torch.float32, torch.float64) and way.numel() < SHORT
        gradient = self._gradient if exact else self._gradient.double()
        return session.base.sign * float(gradient @ (way if exact else way.double()))

    def _decide(self, session: Session) -> None:
        drift, state, constants = session.state.drift, session.state, session.constants
        way, descent = mean_over_ranks([drift.drift_slope_sum, drift.step_slope_sum], session.find_group())
        q = measure_drift(way, descent, session.momentum)
        block = len(constants.drift_targets) - drift.blocks_left
        more = count_doublings(block, q, drift.doublings, session.base.adaptive, constants)
        drift.blocks_left -= 1
        drift.doublings += more
        state.scale *= 2.0**more
        session.note("raised" if more > 0 else "drift", q)


def flatten(values: list[Tensor]) -> Tensor:
    """Return copies of all in one vector, on the first one's device: few operations, however many tensors.

    Examples
    --------
    >>> flatten([torch.ones(1, 2), torch.zeros(1)]).tolist()
    [1.0, 1.0, 0.0]
    """
    with torch.no_grad():
        values = [get_local(v).reshape(-1) for v in values]
        device = values[0].device
        flat = torch.cat([v if v.device == device else v.to(device) for v in values])
    return torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
