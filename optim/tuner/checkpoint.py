"""How the learned values reach checkpoints of the base, and how the outside's values come back.

In a checkpoint groups hold the effective lr and momentum, so a plain base goes on as the tuner would; what the outside
had there is under "krylearn" of each group, the tuner's numbers under "krylearn" of the first, its tensors (first the
batches kept, or the fixed batch and snapshots of the ramp; then two snapshots, for a while the weights of two earlier
steps, and the last top eigenvector) under "krylearn" of the state.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from .groups import NAMES, momentum_name, with_momentum
from .loop import Loop
from .state import Facts, Snapshot

KEY = "krylearn"


def pack(loop: Loop) -> dict[str, Any]:
    """Return the base's state dict with what the tuner adds.

    Examples
    --------
    >>> import torch
    >>> packed = pack(Loop(torch.optim.SGD([torch.ones(1)], lr=1.0), budget=0.1, rng=0, own_momentum=True))
    >>> packed["param_groups"][0]["krylearn"]["outside"]["lr"]
    1.0
    """
    packed, f = loop.base.state_dict(), loop.facts
    learned = momentum_name(loop.base) if math.isfinite(loop.learned_momentum) else None
    for group in packed["param_groups"]:
        outside = {name: group[name] for name in NAMES if name in group}
        group["lr"] = group["lr"] * f.scale
        if learned:
            group[learned] = with_momentum(group, learned, f.momentum)
        group[KEY] = {"outside": outside}
    packed["param_groups"][0][KEY]["facts"] = f.plain()
    tensors: dict[str, Any] = {}
    if loop.control is not None:
        tensors["control"] = loop.control
    if loop.snapshots:
        tensors["snapshots"] = [[step, lr, kept.plain()] for step, lr, kept in loop.snapshots]
    if loop.top is not None:
        tensors["top"] = loop.top
    if loop.before is not None:
        tensors["before"] = loop.before
    if loop.anchors:
        tensors["anchors"] = loop.anchors
    if tensors:
        packed["state"][KEY] = tensors
    return packed


def unpack(loop: Loop, state_dict: dict[str, Any]) -> None:
    """Load what `pack` returned, or a plain base's state dict (then tuning begins at the next observation).

    Examples
    --------
    >>> import torch
    >>> sgd = torch.optim.SGD([torch.ones(1)], lr=1.0)
    >>> loop = Loop(sgd, budget=0.1, rng=0, own_momentum=True)
    >>> unpack(loop, torch.optim.SGD([torch.ones(1)], lr=0.5).state_dict())
    >>> loop.facts.nominal
    0.5
    """
    groups: list[dict[str, Any]] = []
    own: dict[str, Any] = {}
    for group in state_dict["param_groups"]:
        own = own or group.get(KEY, {})
        groups.append({k: v for k, v in group.items() if k != KEY} | group.get(KEY, {}).get("outside", {}))
    state = {k: v for k, v in state_dict["state"].items() if k != KEY}
    loop.base.load_state_dict({"state": state, "param_groups": groups})
    tensors = copy.deepcopy(state_dict["state"].get(KEY, {}))
    fresh = Facts(nominal=float(loop.base.param_groups[0]["lr"]))
    loop.facts = Facts.load(own["facts"]) if "facts" in own else fresh
    loop.control, loop.top, loop.before = tensors.get("control"), tensors.get("top"), tensors.get("before")
    loop.anchors = tensors.get("anchors", [])
    loop.modules = []
    loop.snapshots = [(step, lr, Snapshot(**kept)) for step, lr, kept in tensors.get("snapshots", ())]
