"""A `torch.optim.Optimizer` around another one: everything that is the base's is read through, never aliased."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import Any

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
