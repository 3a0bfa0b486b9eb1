"""`CurvatureTuner`: a torch optimizer around another one that finds learning rate and momentum while it trains.

    effective lr = learned value · (group's lr now / first group's lr at construction)

so ratios between groups and schedules survive, and the initial lr does not matter. The effective values stand in the
groups during the base's step (afterwards schedulers find what they wrote), inside `in_force()` and in `state_dict()`,
whose layout is the base's: a checkpoint of the tuner continues in the plain base and the other way round. Decisions
come from counted losses and products, never from a clock.

This file speaks torch's protocol. What a step or a look does is in the file of the phase that the tuner is in: `start`
(idle), `ramp` or `trials`, then `hold` with `drift` and `raises`; `session` is what they share.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from .base_optimizer import BaseOptimizer
from .checkpoint import drop_if_stale, pack, unpack
from .constants import TunerConstants
from .drift import Drift
from .loss import ClosureLoss, LossSource
from .raises import HoldAndRaise
from .ramp import RampPhase
from .ratios import MOST_UNITS
from .session import Phase, Session, TunerWarning, describe_error
from .spectral import FollowSpectrum, Proposal, granziol
from .start import Idle
from .state import TunerState
from .trials import Trials
from .wrapper import JoinedOptimizer, Wrapper, check_base, list_members

SCHEDULES = ("auto", "constant", "annealed")


class CurvatureTuner(Wrapper):
    """Learning rate and momentum learned on the fly, around any torch optimizer.

    In a plain loop call `tuner.observe(loss_fn, batch)` before each step; with Lightning use `TuneFromCurvature`. Extra
    work: a line search of some ten forward passes and one gradient; then either four lrs tried on half-batches for four
    steps (bases that divide by second moments) or a ramp of some fifteen steps, the last ten of which are made in vain;
    then looks at the loss, Hessian products and trials of higher lrs within `budget`. A blow-up is undone at its price.
    Memory: up to a dozen copies of parameters and optimizer state in host memory during the ramp, five during trials at
    the start, then two, and three where the parameters are while a higher lr is tried. In the 120 steps after the start
    three copies of the parameters and one of the gradients.

    Parameters
    ----------
    base : the optimizer that makes the steps; its lr sets ratios between groups only. Or several ones of different
        parameters (Muon for matrices, AdamW for the rest), which then step together and keep their momenta
    policy : "edge" (ours), "granziol" (the published learner, corrected), or a function from Ritz values (list of
        float) and their weights to a `spectral.Proposal`
    momentum : "learn" (bases with a `momentum`, and β₁ of Adam, AdamW, NAdam, RAdam, Adamax: short runs made us choose
        0.8 and 0.5), or "keep"
    budget : extra work in gradient-equivalents as a share of the steps; the start (some twenty), the first undone
        blow-up and hopeless ones may go beyond it
    total_steps : steps of the whole run, if they are known: times the trials of higher lrs, and where no scheduler
        changes the lr it is decayed to zero over the last 30 % of them
    schedule : "constant", "annealed" (whatever ends low), or "auto": as seen
    validation : () -> loss on held-out batches; it then judges trials, and rising twice while the training loss falls
        it brings back the weights of its minimum. Some fifteen calls in a run of known length
    learn_ratios : give each optimizer of several, or each group of one (16 at most), a scale of its own
    every : steps between two spectra of 20 products; for policies of spectra, whose work `budget` does not limit
    group : process group whose ranks hold different samples; "auto": all, if torch.distributed is initialised. All
        ranks must make the same steps: uneven inputs (`Join`) are not served
    closure : take the loss from `step(closure)`, which is then called more than once (each a gradient); opt-in
    constants : of all phases;  rng : seed of start vectors

    Attributes
    ----------
    base : the wrapped optimizer;  lr, momentum : in force for the next step;  lrs : of all groups
    spent : gradient-equivalents beside steps
    history : list of what was seen and decided: step, event, lr, momentum, loss, sharpness, threshold
    tuning : `TunerState`, all that decisions come from

    Examples
    --------
    >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(8, 1)
    >>> loss_fn = lambda batch: torch.nn.functional.mse_loss(model(batch), 3 * batch)
    >>> tuner = CurvatureTuner(torch.optim.SGD(model.parameters(), lr=1e-6))
    >>> for _ in range(200):
    ...     tuner.zero_grad()
    ...     tuner.observe(loss_fn, x)
    ...     loss_fn(x).backward()
    ...     _ = tuner.step()
    >>> tuner.history[0]["event"], float(loss_fn(x).detach()) < 0.1
    ('start', True)
    """

    def __init__(
        self,
        base: Optimizer | Sequence[Optimizer],
        policy: str | Callable[[list[float], list[float]], Proposal] = "edge",
        *,
        momentum: str = "learn",
        budget: float = 0.1,
        total_steps: int | None = None,
        schedule: str = "auto",
        validation: Callable[[], Any] | None = None,
        every: int = 500,
        learn_ratios: bool = False,
        group: Any = "auto",
        closure: bool = False,
        constants: TunerConstants | None = None,
        rng: int = 0,
    ) -> None:
        wrapped: Any = JoinedOptimizer(base) if isinstance(base, list | tuple) else base
        for each in list_members(wrapped):
            check_base(each)
        check_base(wrapped)
        if learn_ratios and policy != "edge":
            raise ValueError(f"got learn_ratios=True and policy={policy!r}; expected the policy 'edge' for it")
        if momentum not in ("learn", "keep") or not budget >= 0 or every < 1:
            raise ValueError(
                f"got momentum={momentum!r}, budget={budget}, every={every}; expected 'learn' or 'keep', a budget >= 0 "
                "and every >= 1"
            )
        if schedule not in SCHEDULES or (total_steps is not None and total_steps < 1):
            raise ValueError(
                f"got schedule={schedule!r}, total_steps={total_steps}; expected one of {SCHEDULES} and a number >= 1"
            )
        if validation is not None and not callable(validation):
            raise TypeError(f"got validation={validation!r}; expected a function () -> loss on held-out batches")
        if not callable(policy) and policy not in ("edge", "granziol"):
            raise ValueError(f"got policy={policy!r}; expected 'edge', 'granziol' or a function of Ritz values")
        self.base, self.policy, self.every, self.group, self.closure = wrapped, policy, every, group, closure
        self._options: dict[str, Any] = {
            "momentum": momentum, "budget": budget, "rng": rng, "total_steps": total_steps, "schedule": schedule,
            "validation": validation, "learn_ratios": learn_ratios, "constants": constants or TunerConstants(),
        }  # fmt: skip
        self._session = self._open_session()
        self._restore_hooks()
        count = len(set(self._session.base.units))
        if learn_ratios and count > MOST_UNITS:
            raise ValueError(
                f"got learn_ratios=True for {count} groups; expected {MOST_UNITS} at most: join groups that may share "
                "an lr"
            )

    lr = property(lambda self: self._session.lr)
    momentum = property(lambda self: self._session.momentum)
    spent = property(lambda self: self._session.state.spent)
    history = property(lambda self: self._session.history)

    @property
    def lrs(self) -> list[float]:
        """Lr of every group's next step."""
        with self.in_force() as base:
            return [float(group["lr"]) for group in base.param_groups]

    @property
    def tuning(self) -> TunerState:
        """All that decisions come from."""
        return self._session.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; its lr relative to the first group's counts."""
        self.base.add_param_group(param_group)
        session = self._session
        check_base(self.base)
        state = session.state
        state.hold.before, state.drift.anchors, state.race.lrs = None, [], []
        if state.phase in ("ramp", "trials"):
            session.restart()
        elif state.phase == "hold":
            kept = (state.steps, session.lr, session.take_snapshot())
            state.hold.kept = [kept, kept]

    def observe(self, loss_fn: Callable[[Any], Any], batch: Any) -> None:
        """Let the tuner look at the loss if it is time to; between `zero_grad` and `backward`, or anywhere before step.

        Nothing is done in most calls. A failure is a warning, never an error: the base goes on. Looks leave no trace:
        the batch is copied, and what a forward pass changes in modules (buffers, metrics) and random generators is put
        back.

        Parameters
        ----------
        loss_fn : batch -> loss, (outputs, loss), a mapping or object with "loss"; of the module itself (neither
            compiled nor wrapped by DDP)
        batch : this rank's training batch
        """
        session = self._session
        session.base.hide()
        if session.expected is not None:
            drop_if_stale(session)
        if session.state.steps < session.state.blocked_until or not session.phase.is_due(session):
            return
        session.scheduler_attached = session.scheduler_attached or hasattr(self.step, "_wrapped_by_lr_sched")
        source = LossSource(loss_fn, batch, self._find_group(), session.base.sign)
        try:
            session.look(source)
            session.state.failures = 0
        except Exception as error:  # whatever fails in a look, the training that is looked at goes on
            state = session.state
            state.failures += 1
            state.blocked_until = state.steps + 2 ** min(state.failures, 10)  # then the next attempt
            text = f"the tuner could not look at the loss ({describe_error(error)}); lr {self.lr:.3g} stays"
            warnings.warn(text, TunerWarning, stacklevel=2)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make one step of the base with the learned lr and momentum; a closure is called first, once."""
        loss = None
        if closure is not None:
            if self.closure:
                self._observe_closure(closure)
            with torch.enable_grad():
                loss = closure()
        session = self._session
        session.base.hide()
        if session.expected is not None:
            drop_if_stale(session)
        session.before_step()
        session.base.step(session.scale, session.learned_momentum, session.state.ratios)
        session.after_step()
        state = session.state
        if state.phase == "idle" and state.steps == session.constants.unseen and not state.attempts:
            warnings.warn(
                f"{state.steps} steps were made with the lr as given and nothing was observed; call observe(loss_fn, "
                "batch) before step, or use the TuneFromCurvature callback", TunerWarning, stacklevel=2,
            )  # fmt: skip
        return loss

    @contextmanager
    def in_force(self) -> Iterator[Optimizer]:
        """Let the groups hold the lr and momentum in force, for whoever reads them; gives the base.

        Examples
        --------
        >>> tuner = CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=1.0))
        >>> tuner.tuning.scale = 0.25
        >>> with tuner.in_force() as optimizer:
        ...     print(optimizer.param_groups[0]["lr"])
        0.25
        >>> tuner.param_groups[0]["lr"]
        1.0
        """
        session = self._session
        session.base.hide()
        with session.base.in_force(session.scale, session.learned_momentum, session.state.ratios):
            yield self.base

    def show_in_force(self) -> None:
        """Let the groups hold the lr and momentum in force until the next look, step or checkpoint, for monitors.

        A value that somebody writes there meanwhile is taken as the outside's.

        Examples
        --------
        >>> tuner = CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=1.0))
        >>> tuner.tuning.scale = 0.25
        >>> tuner.show_in_force()
        >>> shown = tuner.param_groups[0]["lr"]
        >>> _ = tuner.step()
        >>> shown, tuner.param_groups[0]["lr"]
        (0.25, 1.0)
        """
        session = self._session
        session.base.show(session.scale, session.learned_momentum, session.state.ratios)

    def hide_in_force(self) -> None:
        """Put back what `show_in_force` has replaced.

        Examples
        --------
        >>> CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=1.0)).hide_in_force()
        """
        self._session.base.hide()

    def threshold(self) -> float:
        """Return the sharpness at which a quadratic would diverge with lr and momentum in force.

        Examples
        --------
        >>> CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=0.1)).threshold()
        20.0
        """
        return self._session.threshold()

    def rebase(self, lr: float | None = None) -> None:
        """Take an absolute lr of the user's from now on (None: what stands in the groups), and search no more.

        Blow-ups are still undone.

        Examples
        --------
        >>> tuner = CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=1.0))
        >>> tuner.rebase(0.05)
        >>> tuner.lr
        0.05
        """
        session = self._session
        session.base.hide()
        if lr is not None:
            if not lr > 0:
                raise ValueError(f"got lr={lr}; expected a positive number")
            session.base.multiply_lrs(lr / session.base.first_lr)
        state = session.state
        state.nominal, state.scale, state.ratios = session.base.first_lr, 1.0, []
        session.settle(state.nominal, math.nan)
        state.drift.blocks_left, state.drift.doublings = 0, math.inf
        state.raises.next_step, state.scale = 2**62, 1.0

    def retune(self) -> None:
        """Begin again at the next observation, as after a change of task.

        Examples
        --------
        >>> tuner = CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=1.0))
        >>> tuner.retune()
        >>> tuner.tuning.phase
        'idle'
        """
        self._session.restart()

    # checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state dict with the effective lr and momentum, and what the tuner knows."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        self._session.base.hide()
        packed = pack(self._session)
        for after in self._optimizer_state_dict_post_hooks.values():
            packed = after(self, packed) or packed
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of a tuner, or of the plain base (then tuning begins at the next observation)."""
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        told = unpack(self._session, state_dict)
        if told:
            warnings.warn(told, TunerWarning, stacklevel=2)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but hooks and what the loss was taken from; pickle and deepcopy use it."""
        names = ("base", "policy", "every", "group", "closure", "_options")
        session = self._session
        session.base.hide()
        kept = {"numbers_and_tensors": session.state.split(), "history": session.history,
                "stepped": sorted(session.base.stepped_entries)}  # fmt: skip
        return {name: self.__dict__[name] for name in names} | {"_kept": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore; a shell that Lightning makes is filled attribute by attribute and does not come here."""
        state = dict(state)
        kept = state.pop("_kept", None)
        self.__dict__.update(state)
        if kept:
            self._session = self._open_session()
            self._session.state = TunerState.join(*kept["numbers_and_tensors"])
            self._session.history = kept["history"]
            self._session.base.stepped_entries = set(kept["stepped"])
        self._restore_hooks()

    def __repr__(self) -> str:
        name = self.policy if isinstance(self.policy, str) else getattr(self.policy, "__name__", "policy")
        return f"CurvatureTuner(policy={name}, lr={self.lr:.3g}, momentum={self.momentum:.3g}, base={self.base!r})"

    # inside

    def _open_session(self) -> Session:
        options = dict(self._options)
        base = BaseOptimizer(self.base, options.pop("momentum") == "learn")
        phases: dict[str, Phase]
        if self.policy == "edge":
            phases = {"idle": Idle(), "ramp": RampPhase(), "trials": Trials(), "hold": HoldAndRaise(Drift())}
        else:
            follow = FollowSpectrum(granziol if self.policy == "granziol" else self.policy, self.every)  # type: ignore[arg-type]
            phases = {"idle": follow, "spectral": follow, "hold": HoldAndRaise(Drift())}
        session = Session(base, phases, **options)
        session.find_group = self._find_group
        return session

    def _find_group(self) -> Any:
        if self.group != "auto":
            return self.group
        ready = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return dist.group.WORLD if ready else None

    def _observe_closure(self, closure: Callable[[], Any]) -> None:
        """Look through the closure; gradients are put back, and each of its calls counts as a gradient."""
        owned = self._session.base.parameters()
        grads = [p.grad for p in owned]
        loss_fn, state = ClosureLoss(closure, owned), self._session.state
        before = state.spent
        try:
            self.observe(loss_fn, None)
        finally:
            state.spent = max(state.spent, before + loss_fn.calls)
            for p, g in zip(owned, grads, strict=True):
                p.grad = g
