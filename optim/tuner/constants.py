"""Every constant of the tuner in one frozen object, which a study may replace: `CurvatureTuner(..., constants=...)`."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TunerConstants:
    """Constants of all phases; the defaults were set on the design workloads of the training comparison.

    Examples
    --------
    >>> TunerConstants(ramp_divisor=14.0).ramp_divisor, TunerConstants().ramp_divisor
    (14.0, 10.0)
    """

    # first lr
    start_share: float = 1 / 16  # of the critical lr of the first update: where ramp and trials begin
    search_limit: int = 16  # quadruplings or quarterings of the line search
    # ramp, for bases whose step is lr times a gradient
    ramp_momentum: float = 0.8  # where no condition number is resolved
    ramp_doubling: int = 3  # steps in which the lr doubles
    ramp_check: int = 2  # steps between two looks while all goes well, half of it while not
    ramp_share: float = 1.0  # of the gain that must be lost
    ramp_confirm: int = 2  # looks in a row
    ramp_divisor: float = 10.0  # settled lr = lr at which the gain was lost / this
    ramp_return: float = 3.0  # times the settled lr: the lr of the ramp whose weights are kept
    ramp_range: float = 64.0  # the ramp also ends if the loss has not improved over this factor in lr
    # trials at the start, for bases that divide by second moments
    trial_beta: float = 0.5  # β₁ of Adam's family
    trial_centre: float = 0.2  # times the critical lr: the lr that the trials are centred on
    trial_warm: int = 4  # steps before: second moments of the first step alone are of no use as a scale
    trial_factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)  # times the centre
    trial_batches: int = 4  # batches that a trial trains on
    trial_parts: int = 2  # pieces of a batch, each of them a step of a trial
    trial_share: float = 1.0  # of the lr at the vertex
    trial_shown: float = 0.05  # of the loss before: what the best trial must have gained
    trial_again: int = 20  # steps after which trials that have shown nothing are repeated, once
    # drift: five decisions after the start
    drift_block: int = 20  # steps per decision
    drift_targets: tuple[float, ...] = (0.0, 0.13, 0.26, 0.37, 0.45)
    drift_adaptive: tuple[float, ...] = (0.1, 0.2, 0.42, 0.5, 0.55)  # for bases that divide by second moments
    drift_gain: float = 1.0  # doublings per unit that the drift falls short
    drift_most: float = 1.0  # doublings at once
    drift_raise: float = math.log2(2.5)  # doublings in all, that by the line search too
    drift_cost: float = 0.1  # gradient-equivalents of one step's inner products
    # hold
    look_every: int = 20  # steps between two looks at the loss, at first
    look_share: float = 1 / 12  # of the steps made: the steps between two looks later
    look_most: int = 100  # steps between two looks, at most
    stretch: float = 5.0  # updates in one that must still lower the loss for the lr to be doubled
    stretch_window: int = 200  # steps after the ramp in which it may be
    refresh_first: int = 50  # steps to the first measurement of the sharpness; the gap doubles each time
    refresh_share: float = 4.0  # times its cost must be left of the budget
    lanczos_steps: int = 12  # products of the one spectrum that may resolve the condition number
    lanczos_share: float = 3.0  # times its cost must be left of the budget
    sharpness_cap: float = 4.0  # times the threshold: a sharpness above it halves the lr
    # ratios between units
    ratio_shrink: float = 0.06  # step of a unit that divides by second moments, to that of its first update
    ratio_share: float = 0.5  # of the lr at the vertex of the trials, where momenta are not learned with it
    # later raises
    raise_rounds: tuple[float, ...] = (0.02, 0.05, 0.10, 0.20, 0.35)  # shares of the steps, where the horizon is known
    raise_budget: float = 0.45  # of the budget, for races and looks after the start; the rest is what no count sees
    raise_once: float = 0.05  # of the steps: what one race may cost in a short run, whatever the start has left
    raise_first: int = 100  # step of the first round where it is not; the distance doubles each time
    raise_factors: tuple[float, ...] = (1.0, 3.0)  # times the lr in force
    raise_batches: int = 64  # batches that a trial of a raise trains on, at most
    raise_parts: int = 1  # pieces of a batch, each of them a step of such a trial
    raise_fewest: int = 8  # fewer are not worth it
    raise_gain: float = 0.001  # of the loss: what a higher lr must win by, over two batches
    own_decay: float = 0.3  # last share of the steps, in which a constant lr is decayed if the horizon is known
    held_out_checks: int = 10  # looks at the held-out loss
    held_out_rise: float = 1.05  # what counts as a rise of it
    # telling the user
    unseen: int = 200  # steps without any observation


DEFAULTS = TunerConstants()
