"""A torch optimizer around another one, or around several: all that is theirs is read through, never aliased."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

HOOKS = ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post")


OWN_LR = ("prodigy", "dadapt", "mechan", "dog", "ldog", "dowg", "cocob", "adagradnorm")  # beginnings of names


def check_base(base: Any) -> None:
    """Refuse what cannot be wrapped.

    Raises
    ------
    TypeError : no optimizer, one that needs several gradients in a step (L-BFGS, SAM), or one that adapts its own lr
    ValueError : some groups maximise and others minimise

    Examples
    --------
    >>> import torch
    >>> check_base(torch.optim.SGD([torch.ones(1)]))
    """
    if not isinstance(base, Optimizer):
        raise TypeError(f"got {type(base).__name__}; expected a torch.optim.Optimizer to wrap")
    if inspect.signature(type(base).step).parameters["closure"].default is inspect.Parameter.empty:
        raise TypeError(f"{type(base).__name__} needs a closure in every step and searches for its own step length")
    name = type(base).__name__
    if hasattr(base, "first_step") and hasattr(base, "second_step"):
        raise TypeError(
            f"{name} takes two gradients in a step, which a wrapper cannot give it; wrap the optimizer inside instead: "
            f"{name}(params, base_optimizer=...) around a tuned lr, or tune without it"
        )
    if name.lower().startswith(OWN_LR):
        raise TypeError(f"{name} adapts its own lr, and two searches would fight; use it alone, or wrap AdamW or SGD")
    signs = {bool(group.get("maximize", False)) for group in base.param_groups}
    if len(signs) > 1:
        raise ValueError("some groups maximise and others minimise; one loss cannot judge both: make two optimizers")


class Wrapper(Optimizer):
    """Groups, state and defaults of `self.base`; loading replaces them there, so they are looked up each time.

    Examples
    --------
    >>> import torch
    >>> class Same(Wrapper):
    ...     def __init__(self, base):
    ...         self.base = base
    ...         self._restore_hooks()
    >>> Same(torch.optim.SGD([torch.ones(1)], lr=0.5)).param_groups[0]["lr"]
    0.5
    """

    base: Optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Groups of the base; `lr` there is the outside's."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """State of the base."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """Defaults of the base."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    def _restore_hooks(self) -> None:
        """Make what torch's own constructor makes beside groups and state: hook dictionaries and the patched step."""
        for name in HOOKS:
            self.__dict__.setdefault(f"_optimizer_{name}_hooks", OrderedDict())
        self._patch_step_function()
        self._warned_capturable_if_run_uncaptured = True


class JoinedOptimizer(Wrapper):
    """Optimizers of different parameters (Muon for matrices, AdamW for the rest) as one optimizer.

    Groups and state are the members' own, never copies. A checkpoint has torch's layout, parameters counted through.

    Parameters
    ----------
    optimizers : two or more, of different parameters

    Raises
    ------
    ValueError : fewer than two, or a parameter belongs to two of them

    Examples
    --------
    >>> v, w = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    >>> joined = JoinedOptimizer([torch.optim.SGD([v], lr=0.5), torch.optim.AdamW([w], lr=0.1)])
    >>> [group["lr"] for group in joined.param_groups]
    [0.5, 0.1]
    >>> (v * w).backward()
    >>> joined.step()
    >>> round(v.item(), 6), round(w.item(), 6)
    (0.5, 0.899)
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        owned = [id(p) for each in self.optimizers for group in each.param_groups for p in group["params"]]
        if len(self.optimizers) < 2 or len(set(owned)) < len(owned):
            raise ValueError(
                f"got {len(self.optimizers)} optimizers of {len(owned)} parameters, {len(set(owned))} different ones; "
                "expected two or more that share no parameter"
            )
        self._restore_hooks()

    @property  # type: ignore[misc]
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Groups of all members."""
        return [group for each in self.optimizers for group in each.param_groups]

    @property
    def members_of_groups(self) -> list[int]:
        """Number of the member that each group belongs to."""
        return [k for k, each in enumerate(self.optimizers) for _ in each.param_groups]

    @property  # type: ignore[misc]
    def state(self) -> Any:  # type: ignore[override]
        """State of all members."""
        return _JoinedState(self.optimizers)

    @property  # type: ignore[misc]
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """Defaults of the first member."""
        return self.optimizers[0].defaults

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """Make a step of every member; a closure is called first, once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for each in self.optimizers:
            each.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: nobody could say whose the new group is."""
        raise TypeError("several optimizers are joined; add the group to one of them, then make the tuner anew")

    def state_dict(self) -> dict[str, Any]:
        """Return torch's layout, parameters counted through all members."""
        packed: dict[str, Any] = {"state": {}, "param_groups": []}
        before = 0
        for each in self.optimizers:
            part = each.state_dict()
            packed["state"] |= {before + number: kept for number, kept in part["state"].items()}
            groups = [group | {"params": [before + k for k in group["params"]]} for group in part["param_groups"]]
            packed["param_groups"] += groups
            before += sum(len(group["params"]) for group in groups)
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give every member its part."""
        groups, first, before = state_dict["param_groups"], 0, 0
        expected = len(self.param_groups)
        if len(groups) != expected:
            raise ValueError(f"got a checkpoint of {len(groups)} groups; expected {expected}, as the optimizers have")
        for each in self.optimizers:
            mine = groups[first : first + len(each.param_groups)]
            count = sum(len(group["params"]) for group in mine)
            part = {
                "state": {n - before: kept for n, kept in state_dict["state"].items() if before <= n < before + count},
                "param_groups": [group | {"params": [k - before for k in group["params"]]} for group in mine],
            }
            each.load_state_dict(part)
            first, before = first + len(mine), before + count

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._restore_hooks()

    def __repr__(self) -> str:
        return f"JoinedOptimizer({self.optimizers!r})"


class _JoinedState(MutableMapping):
    """The states of several optimizers, looked up by parameter."""

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self._optimizers = optimizers
        self._owners = {p: each for each in optimizers for group in each.param_groups for p in group["params"]}

    def __getitem__(self, p: Tensor) -> Any:
        return self._owners[p].state[p]

    def __setitem__(self, p: Tensor, value: Any) -> None:
        self._owners[p].state[p] = value

    def __delitem__(self, p: Tensor) -> None:
        del self._owners[p].state[p]

    def __contains__(self, p: object) -> bool:
        return p in self._owners and p in self._owners[p].state  # type: ignore[index]

    def __iter__(self) -> Iterator[Any]:
        return (p for each in self._optimizers for p in each.state)

    def __len__(self) -> int:
        return sum(len(each.state) for each in self._optimizers)

    def get(self, p: Tensor, default: Any = None) -> Any:
        """Return what is kept for a parameter, without making an entry for it."""
        return self._owners[p].state[p] if p in self else default


def list_members(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers that make the steps: the members of joined ones, else the optimizer itself.

    Examples
    --------
    >>> sgd = torch.optim.SGD([torch.ones(1)])
    >>> list_members(sgd) == [sgd]
    True
    """
    return optimizer.optimizers if isinstance(optimizer, JoinedOptimizer) else [optimizer]
