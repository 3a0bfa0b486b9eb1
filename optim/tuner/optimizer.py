"""`CurvatureTuner`: a torch optimizer around another one that finds learning rate and momentum while it trains.

    effective lr = learned value · (group's lr now / first group's lr at construction)

so ratios between groups and schedules survive, and the initial lr does not matter. The effective values stand in the
groups only during the base's step (afterwards schedulers find what they wrote) and in `state_dict()`, whose layout is
the base's: a checkpoint of the tuner continues in the plain base and the other way round. What the tuner itself knows
is under "krylearn" there. Decisions come from counted losses and products, never from a clock.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from . import ramp as policies
from .checkpoint import pack, unpack
from .closure import observe_closure
from .drift_meter import Watch
from .groups import effective
from .loop import Loop, TunerWarning, describe_error
from .loss import LossSource
from .spectral import spectrum
from .wrapper import Wrapper, check_base

UNSEEN = 200  # steps without any observation after which the user is told


class CurvatureTuner(Wrapper):
    """Learning rate and momentum learned on the fly, around any torch optimizer.

    In a plain loop call `tuner.observe(loss_fn, batch)` before each step; with Lightning use `TuneFromCurvature`. Extra
    work: a line search of some ten forward passes and one gradient; then either trials of up to five lrs on eight
    half-batches (bases that divide by second moments; once more where they show nothing) or a ramp of some fifteen
    steps, the last ten of which are made in vain; then looks at the loss and Hessian products within `budget`. A
    blow-up is undone at its price.
    Memory, in host memory: up to a dozen copies of parameters and optimizer state during the ramp, then two; for the
    trials two, and five batches where they are. In the 120 steps after that three copies of the parameters and one of
    the gradients, where they are.

    Parameters
    ----------
    base : the optimizer that makes the steps; its lr sets ratios between groups only
    policy : "edge" (ours), "granziol" (the published learner, corrected), or a function from Ritz values (list of
        float) and their weights to a `policies.Proposal`
    momentum : "learn" (bases with a `momentum`, and β₁ of Adam, AdamW, NAdam, RAdam, Adamax: short runs made us choose
        0.8 and 0.5), or "keep"
    budget : extra work in gradient-equivalents as a share of the steps; the start (some twenty), the first undone
        blow-up and hopeless ones may go beyond it
    every : steps between two spectra of 20 products; for policies of spectra, whose work `budget` does not limit
    group : process group whose ranks hold different samples; "auto": all, if torch.distributed is initialised
    closure : take the loss from `step(closure)`, which is then called more than once (each a gradient); opt-in
    rng : seed of start vectors

    Attributes
    ----------
    base : the wrapped optimizer;  lr, momentum : in force for the next step;  spent : gradient-equivalents beside steps
    history : list of what was seen and decided: step, event, lr, momentum, loss, sharpness, threshold

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
        base: Optimizer,
        policy: str | Callable[[list[float], list[float]], policies.Proposal] = "edge",
        *,
        momentum: str = "learn",
        budget: float = 0.1,
        every: int = 500,
        group: Any = "auto",
        closure: bool = False,
        rng: int = 0,
    ) -> None:
        check_base(base)
        if momentum not in ("learn", "keep") or not budget >= 0 or every < 1:
            raise ValueError(
                f"got momentum={momentum!r}, budget={budget}, every={every}; expected 'learn' or 'keep', a budget >= 0 "
                "and every >= 1"
            )
        if not callable(policy) and policy not in ("edge", "granziol"):
            raise ValueError(f"got policy={policy!r}; expected 'edge', 'granziol' or a function of Ritz values")
        self.base, self.policy, self.every, self.group, self.closure = base, policy, every, group, closure
        self._loop = Loop(base, budget=budget, rng=rng, own_momentum=momentum == "learn")
        self._mode = momentum
        self._restore_hooks()

    lr = property(lambda self: self._loop.lr)
    momentum = property(lambda self: self._loop.momentum)
    spent = property(lambda self: self._loop.facts.spent)
    history = property(lambda self: self._loop.history)
    facts = property(lambda self: self._loop.facts)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; its lr relative to the first group's counts."""
        self.base.add_param_group(param_group)
        self._loop.snapshots, self._loop.before, self._loop.anchors = [], None, []
        if self._loop.facts.phase == "ramp":
            self.retune()

    def observe(self, loss_fn: Callable[[Any], Any], batch: Any) -> None:
        """Let the tuner look at the loss if it is time to; between `zero_grad` and `backward`, or anywhere before step.

        Nothing is done in most calls. A failure is a warning, never an error: the base goes on.

        Parameters
        ----------
        loss_fn : batch -> loss or (outputs, loss), of the module itself (neither compiled nor wrapped by DDP)
        batch : this rank's training batch
        """
        source = LossSource(loss_fn, batch, self._group())
        try:
            if self.policy == "edge":
                self._loop.look(source)
            else:
                self._spectral(source)
        except Exception as error:  # whatever fails in a look, the training that is looked at goes on
            self._loop.facts.spent += source.spent
            text = f"the tuner could not look at the loss ({describe_error(error)}); lr {self.lr:.3g} stays"
            warnings.warn(text, TunerWarning, stacklevel=2)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make one step of the base with the learned lr and momentum; a closure is called first, once."""
        loss = None
        if closure is not None:
            if self.closure:
                observe_closure(self, closure)
            with torch.enable_grad():
                loss = closure()
        loop = self._loop
        loop.before_step()
        watch = Watch(loop)
        with effective(self.base, loop.facts.scale, loop.learned_momentum):
            self.base.step()
        loop.after_step()
        watch.after(self._group() if watch.active else None)
        if loop.facts.phase == "idle" and loop.facts.steps == UNSEEN:
            warnings.warn(
                f"{UNSEEN} steps were made with the lr as given and nothing was observed; call observe(loss_fn, batch) "
                "before step, or use the TuneFromCurvature callback", TunerWarning, stacklevel=2,
            )  # fmt: skip
        return loss

    def rebase(self, lr: float | None = None) -> None:
        """Take an absolute lr of the user's from now on (None: what stands in the groups), and ramp no more.

        Examples
        --------
        >>> tuner = CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=1.0))
        >>> tuner.rebase(0.05)
        >>> tuner.lr
        0.05
        """
        f = self._loop.facts
        if lr is not None:
            if not lr > 0:
                raise ValueError(f"got lr={lr}; expected a positive number")
            self._set_lrs(lr / float(self.param_groups[0]["lr"]))
        f.nominal, f.scale, f.phase = float(self.param_groups[0]["lr"]), 1.0, "hold"
        f.first, f.best, f.again, f.blocks, f.raised = math.nan, math.nan, 0, 0, math.inf
        self._loop.control, self._loop.snapshots = None, []

    def retune(self) -> None:
        """Begin again at the next observation, as after a change of task.

        Examples
        --------
        >>> tuner = CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=1.0))
        >>> tuner.retune()
        >>> tuner.facts.phase
        'idle'
        """
        self._loop.facts.phase, self._loop.control, self._loop.snapshots = "idle", None, []

    # checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state dict with the effective lr and momentum, and what the tuner knows."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        packed = pack(self._loop)
        for after in self._optimizer_state_dict_post_hooks.values():
            packed = after(self, packed) or packed
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of a tuner, or of the plain base (then tuning begins at the next observation)."""
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        unpack(self._loop, state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but hooks and what the loss was taken from; pickle and deepcopy use it."""
        loop = self._loop
        kept = {name: getattr(loop, name) for name in ("facts", "snapshots", "control", "top", "before", "anchors")}
        facts = {"budget": loop.budget, "rng": loop.rng, "history": loop.history}
        names = ("base", "policy", "every", "group", "closure", "_mode")
        return {name: self.__dict__[name] for name in names} | {"_kept": kept, "_facts": facts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore; a shell that Lightning makes is filled attribute by attribute and does not come here."""
        state = dict(state)
        kept, facts = state.pop("_kept", {}), state.pop("_facts", {})
        self.__dict__.update(state)
        if kept:
            own = self._mode == "learn"
            self._loop = Loop(self.base, budget=facts["budget"], rng=facts["rng"], own_momentum=own)
            self._loop.history = facts["history"]
            for name, value in kept.items():
                setattr(self._loop, name, value)
        self._restore_hooks()

    def __repr__(self) -> str:
        name = self.policy if isinstance(self.policy, str) else getattr(self.policy, "__name__", "policy")
        return f"CurvatureTuner(policy={name}, lr={self.lr:.3g}, momentum={self.momentum:.3g}, base={self.base!r})"

    # inside

    def _set_lrs(self, factor: float) -> None:
        for group in self.param_groups:
            for name in ("lr", "initial_lr"):
                if name in group:
                    value = group[name]
                    group[name] = value.mul_(factor) if isinstance(value, Tensor) else value * factor

    def _group(self) -> Any:
        if self.group != "auto":
            return self.group
        ready = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return dist.group.WORLD if ready else None

    def _spectral(self, source: LossSource) -> None:
        """Follow a policy of Ritz values: a spectrum every so many steps, held constant in between."""
        loop, f = self._loop, self._loop.facts
        if f.phase == "hold" and f.steps < f.refresh:
            return
        pairs = spectrum(source, self.base, 20, loop.rng)
        f.spent += source.spent
        source.spent = 0.0
        policy = policies.granziol if self.policy == "granziol" else self.policy
        assert callable(policy)
        proposal = policy(pairs.values.tolist(), pairs.weights.tolist())
        f.scale, f.phase, f.refresh = proposal.lr / f.nominal, "hold", f.steps + self.every
        if loop.own_momentum and proposal.momentum is not None:
            f.momentum = proposal.momentum
        f.sharpness = max(abs(v) for v in pairs.values.tolist())
        loop.note("sharpness", math.nan)
