"""How the learned values reach checkpoints of the base, and how the outside's values come back.

In a checkpoint groups hold the effective lr and momentum, so a plain base goes on as the tuner would; what the outside
had there is under "krylearn" of each group, with the tuner's numbers in the first. Tensors (weights to go back to)
stand beside `state` and `param_groups` under "krylearn": a plain base drops them, torch.distributed.checkpoint too.

The tuner's part is stale if the base has trained on without it: then the parameters are no longer those of which the
numbers hold a fingerprint, and tuning begins anew from the lr that stands in the groups. The same fingerprint makes
numbers without tensors of use: the lr found stays in force, and what one goes back to is taken from there.
"""

from __future__ import annotations

import copy
from typing import Any

from .base_optimizer import LEARNED, replace_momentum
from .session import Session
from .state import VERSION, HoldState, TunerState

KEY = "krylearn"
OLD_NAMES = {"first": "first_loss", "mean": "mean_loss", "deviation": "loss_deviation", "settled": "settled_step",
             "last": "last_look_step", "rescues": "rescues", "trouble": "last_rescue_step"}  # fmt: skip


def pack(session: Session) -> dict[str, Any]:
    """Return the base's state dict with what the tuner adds.

    Examples
    --------
    >>> import torch
    >>> from .base_optimizer import BaseOptimizer
    >>> packed = pack(Session(BaseOptimizer(torch.optim.SGD([torch.ones(1)], lr=1.0)), {}))
    >>> packed["param_groups"][0]["krylearn"]["outside"]["lr"]
    1.0
    """
    base, state = session.base, session.state
    packed = base.optimizer.state_dict()
    learned = base.momentum_entry if session.learned_momentum == session.learned_momentum else None
    scale, groups = session.scale, packed["param_groups"]
    for group, factor in zip(groups, base.spread(state.ratios) or [1.0] * len(groups), strict=True):
        outside = {name: group[name] for name in LEARNED if name in group}
        group["lr"] = group["lr"] * scale * factor
        if learned:
            group[learned] = replace_momentum(group, learned, state.momentum)
        group[KEY] = {"outside": outside}
    numbers, tensors = state.split()
    first = packed["param_groups"][0][KEY]
    first["state"], first["fingerprint"] = numbers, base.fingerprint()
    first["base_step"] = _count_base_steps(packed["state"])
    first["stepped"] = sorted(base.stepped_entries)
    packed[KEY] = tensors
    return packed


def unpack(session: Session, state_dict: dict[str, Any]) -> str:
    """Load what `pack` returned, or a plain base's state dict; return what the user should be told, or "".

    Examples
    --------
    >>> import torch
    >>> from .base_optimizer import BaseOptimizer
    >>> session = Session(BaseOptimizer(torch.optim.SGD([torch.ones(1)], lr=1.0)), {})
    >>> unpack(session, torch.optim.SGD([torch.ones(1)], lr=0.5).state_dict())
    ''
    >>> session.state.nominal
    0.5
    """
    base = session.base
    own: dict[str, Any] = next((group[KEY] for group in state_dict["param_groups"] if group.get(KEY)), {})
    whole = KEY in state_dict or KEY in state_dict["state"]  # not through a plain base
    groups = [{k: v for k, v in group.items() if k != KEY} for group in state_dict["param_groups"]]
    outside = [group.get(KEY, {}).get("outside", {}) for group in state_dict["param_groups"]]
    state = {k: v for k, v in state_dict["state"].items() if k != KEY}
    base.optimizer.load_state_dict({"state": state, "param_groups": groups})
    session.modules, session.expected, session.plain_values = [], None, []
    told, joined = "", None
    if "state" in own:
        joined = TunerState.join(own["state"], copy.deepcopy(state_dict.get(KEY, {})))
        base.stepped_entries |= set(own.get("stepped", ()))
        if joined.version > VERSION:
            told = (
                f"the checkpoint's tuner is of version {joined.version}, this one reads {VERSION}: tuning begins anew"
            )
            joined = None
    elif "facts" in own:
        joined, told = _from_version_1(own["facts"])
    if joined is None or (own.get("base_step", -1) != _count_base_steps(state) and "base_step" in own):
        session.state = TunerState(nominal=base.first_lr)
        return told
    session.plain_values = [
        {name: group[name] for name in values} for group, values in zip(groups, outside, strict=True)
    ]
    for group, values in zip(base.optimizer.param_groups, outside, strict=True):
        group.update(copy.deepcopy(values))
    session.state = joined
    if not whole:
        session.expected = own.get("fingerprint")
    return told


def drop_if_stale(session: Session) -> bool:
    """Drop what was learned if the parameters are not those that it was learned with; done at the first step or look.

    Only after a checkpoint that came through a plain base, or without its tensors.
    """
    expected, session.expected = session.expected, None
    if expected is None:
        return False
    found, state = session.base.fingerprint(), session.state
    if abs(found - expected) > 1e-9 * abs(expected):
        for group, values in zip(session.base.optimizer.param_groups, session.plain_values, strict=False):
            group.update(values)
        session.state = TunerState(nominal=session.base.first_lr)
        return True
    if state.phase == "hold":
        state.hold.kept = [(state.steps, session.lr, session.take_snapshot())]
        state.drift.blocks_left = 0
        state.race.lrs = []
    elif state.phase in ("ramp", "trials"):
        session.restart()
    return False


def _count_base_steps(state: dict[Any, Any]) -> int:
    """Return the largest step counter that a base keeps for a parameter; 0 where it keeps none."""
    counters = [each["step"] for each in state.values() if isinstance(each, dict) and "step" in each]
    return max((int(counter) for counter in counters), default=0)


def _from_version_1(facts: dict[str, Any]) -> tuple[TunerState | None, str]:
    """Return the state of a tuner of before, if it had settled; its start depended on batches that it kept."""
    if facts.get("phase") != "hold":
        return None, "the checkpoint is of an older tuner that had not settled; tuning begins anew"
    state = TunerState(
        phase="hold", scale=facts["scale"], nominal=facts["nominal"], momentum=facts["momentum"],
        steps=facts["steps"], spent=facts["spent"],
        hold=HoldState(**{new: facts[old] for old, new in OLD_NAMES.items() if old in facts}),
    )  # fmt: skip
    state.curvature.sharpness = facts.get("sharpness", state.curvature.sharpness)
    state.curvature.next_measurement = facts.get("refresh", 0)
    state.curvature.spectrum_done = facts.get("resolved", 0)
    state.raises.next_step = 2 * max(state.steps, 100)
    return state, ""
