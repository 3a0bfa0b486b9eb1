"""How the learned values reach checkpoints of the base, and how the outside's values come back.

In a checkpoint groups hold the effective lr and momentum, so a plain base goes on as the tuner would; what the outside
had there is under "krylearn" of each group, with the tuner's numbers in the first. Tensors (weights to go back to)
stand beside `state` and `param_groups` under "krylearn": a plain base drops them, torch.distributed.checkpoint too.

The tuner's part is stale if the base has trained on without it: then the parameters are no longer those of which the
numbers hold a fingerprint, and tuning begins anew from the lr that stands in the groups. The same fingerprint makes
numbers without tensors of use: the lr found stays in force, and what one goes back to is taken from there.

Parts of sharded parameters go through torch.distributed.checkpoint as the tensors that they are parts of, so another
number of processes can read them. It reads only what it is asked for by name, and what a tuner holds depends on what it
was doing: so a plan of the nested dictionaries is read first, and the tensors that it names after it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .base_optimizer import LEARNED, BaseOptimizer, get_local, replace_momentum, share_of
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
    session.modules_known = False
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


# --- torch.distributed.checkpoint ------------------------------------------------------------------------------------


def save_distributed(folder: str | Path, model: nn.Module, tuner: Any) -> None:
    """Write a model and its tuner by torch.distributed.checkpoint, every process its part. Collective.

    Parameters
    ----------
    folder : where the checkpoint is written, the same on every process
    model : with or without `fully_shard`;  tuner : CurvatureTuner of its parameters

    Examples
    --------
    >>> import tempfile
    >>> from krylearn.optim import CurvatureTuner
    >>> model = nn.Linear(3, 2)
    >>> tuner = CurvatureTuner(torch.optim.AdamW(model.parameters(), lr=0.5))
    >>> other = nn.Linear(3, 2)
    >>> again = CurvatureTuner(torch.optim.AdamW(other.parameters(), lr=1.0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_distributed(folder, model, tuner)
    ...     load_distributed(folder, other, again)
    >>> again.lr, bool((model.weight == other.weight).all())
    (0.5, True)
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    tensors: dict[str, Tensor] = {}
    parts, packed = _Plan(tuner._session.base), tuner.state_dict()
    state = {k: parts.take_apart(each, tensors) for k, each in packed.pop("state").items()}
    plan = {"state": state} | parts.take_apart(packed, tensors)
    plan[SHARDED] = parts.is_sharded
    plan[SUMS] = _gather({name: _drift_of(plan)[name] for name in OWN_SUMS})
    written = io.BytesIO()
    torch.save(plan, written)
    whole = {"model": get_model_state_dict(model), "tuner": {"plan": written.getvalue(), "tensors": tensors}}
    with _alone_or_not() as alone:
        dcp.save(whole, checkpoint_id=str(folder), no_dist=alone)


def load_distributed(folder: str | Path, model: nn.Module, tuner: Any) -> None:
    """Read what `save_distributed` wrote, on any number of processes. Collective.

    On as many processes as wrote it the run goes on bit for bit. A checkpoint of a sharded model can be read into one
    that is not sharded, but not the other way round.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    state: dict[str, Any] = {"model": get_model_state_dict(model), "tuner": {"plan": b""}}
    with _alone_or_not() as alone:
        dcp.load(state, checkpoint_id=str(folder), no_dist=alone)
    plan = torch.load(io.BytesIO(state["tuner"]["plan"]), weights_only=True)
    parts, sums, was_sharded = _Plan(tuner._session.base), plan.pop(SUMS), plan.pop(SHARDED)
    if parts.is_sharded and not was_sharded:
        raise ValueError(
            f"got {folder}, written by a tuner whose parameters were not sharded; expected one of sharded parameters: "
            "load it before `fully_shard`, or write it from a sharded model"
        )
    set_model_state_dict(model, state["model"])
    # each process goes on with its own sums; where there are more or fewer now, the total is shared out anew
    ranks = _gather(None)
    rank = torch.distributed.get_rank() if len(ranks) > 1 else 0
    shares = (len(ranks) if parts.is_sharded else 1) if was_sharded else len(sums)
    shared = {name: sum(each[name] for each in sums) / shares for name in OWN_SUMS}
    _drift_of(plan).update(sums[rank] if len(sums) == len(ranks) else shared)
    tensors = parts.allocate(plan)
    if tensors:
        with _alone_or_not() as alone:
            dcp.load({"tuner": {"tensors": tensors}}, checkpoint_id=str(folder), no_dist=alone)
    tuner.load_state_dict(parts.put_together(plan, tensors))


def _drift_of(plan: dict[str, Any]) -> dict[str, float]:
    """Return the part of the numbers in which stand inner products of a process's own parts of gradients."""
    found: dict[str, float] = plan["param_groups"][0][KEY]["state"]["drift"]
    return found


def _gather(value: Any) -> list[Any]:
    """Return what each process has passed, in the order of ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    found = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


@contextlib.contextmanager
def _alone_or_not() -> Iterator[bool]:
    """Say whether this is the only process, and let torch not warn of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield not (torch.distributed.is_available() and torch.distributed.is_initialized())


LEAF, JOINED, SUMS, SHARDED = "krylearn.tensor", "krylearn.joined", "krylearn.sums", "krylearn.sharded"
OWN_SUMS = ("drift_slope_sum", "step_slope_sum")


class _Plan:
    """A state dict with tensors taken out, each replaced by what is needed to make room for it.

    Snapshots hold a process's own parts of parameters as plain tensors: in a list of tensors as long as all parameters,
    or as those that are trained, each is a part of the parameter of its place. Where all parts stand in one flat
    tensor, it is written in pieces.
    """

    def __init__(self, base: BaseOptimizer) -> None:
        self.owned = base.parameters()
        places = {id(p): k for k, p in enumerate(self.owned)}
        self.is_sharded = any(hasattr(p, "to_local") for p in self.owned)
        self.places = [list(range(len(self.owned))), [places[id(p)] for p in base.trained()]]

    def take_apart(self, value: Any, tensors: dict[str, Tensor], owner: int = -1, name: Any = "") -> Any:
        """Return the plan of a nested value; its tensors go to `tensors`. owner : number of a parameter, or -1."""
        if isinstance(value, Tensor):
            if self._is_joined(value):
                pieces = [get_local(self.owned[k].detach()) for k in self.places[1]]
                cut = value.split([p.numel() for p in pieces])
                parts = [v.reshape(p.shape) for v, p in zip(cut, pieces, strict=True)]
                return {JOINED: self.take_apart(parts, tensors)}
            key = str(len(tensors))
            tensors[key], facts = self._write(value.detach(), owner)
            return {LEAF: key, "dtype": str(value.dtype).removeprefix("torch.")} | facts
        if isinstance(value, dict):
            if "was" in value and "sharded" not in value:  # in a snapshot, the same on all processes
                owner = -1
            return {k: self.take_apart(each, tensors, owner, k) for k, each in value.items()}
        if isinstance(value, list | tuple):
            owners = [owner] * len(value)
            plain = all(each is None or isinstance(each, Tensor) for each in value)
            if owner < 0 and (plain or name == "states"):
                owners = next((places for places in self.places if len(places) == len(value)), owners)
            made = [self.take_apart(each, tensors, k) for each, k in zip(value, owners, strict=True)]
            return tuple(made) if isinstance(value, tuple) else made
        return value

    def _is_joined(self, value: Tensor) -> bool:
        trained: list[Any] = [self.owned[k] for k in self.places[1]]
        if value.ndim != 1 or len(trained) < 2 or not any(hasattr(p, "to_local") for p in trained):
            return False
        return value.numel() == sum(get_local(p.detach()).numel() for p in trained)

    def _write(self, value: Tensor, owner: int) -> tuple[Tensor, dict[str, Any]]:
        """Return the whole tensor that is written, and how to make room for it."""
        facts: dict[str, Any] = {"owner": owner, "local": not hasattr(value, "to_local"), "device": value.device.type}
        if facts["local"]:
            of: Any = self.owned[owner]
            if owner < 0 or not hasattr(of, "to_local") or value.shape != of.to_local().shape:
                return value, facts | {"shape": list(value.shape), "shards": None}
            value = share_of(value.to(of.device), of)
        shards = [placement.dim if placement.is_shard() else None for placement in value.placements]  # type: ignore[attr-defined]
        return value, facts | {"shape": list(value.shape), "shards": shards}

    def allocate(self, plan: Any) -> dict[str, Tensor]:
        """Return tensors to read into, by name, sharded as the parameters are now."""
        tensors: dict[str, Tensor] = {}

        def visit(value: Any) -> None:
            if isinstance(value, dict) and LEAF in value:
                tensors[value[LEAF]] = self._make_room(value)
            elif isinstance(value, dict | list | tuple):
                for each in value.values() if isinstance(value, dict) else value:
                    visit(each)

        visit(plan)
        return tensors

    def _make_room(self, facts: dict[str, Any]) -> Tensor:
        dtype, owner = getattr(torch, facts["dtype"]), self.owned[facts["owner"]].detach()
        if facts["shards"] is not None and facts["owner"] >= 0 and list(owner.shape) == facts["shape"]:
            return torch.empty_like(owner, dtype=dtype)  # a plain tensor where nothing is sharded now
        mesh = next((p.device_mesh for p in self.owned if hasattr(p, "device_mesh")), None)
        if facts["shards"] is None or mesh is None:
            return torch.empty(facts["shape"], dtype=dtype)
        from torch.distributed.tensor import Replicate, Shard, empty

        placements = [Replicate() if dim is None else Shard(dim) for dim in facts["shards"]]
        return empty(facts["shape"], dtype=dtype, device_mesh=mesh, placements=placements)

    def put_together(self, plan: Any, tensors: dict[str, Tensor]) -> Any:
        """Undo `take_apart`."""
        if isinstance(plan, dict) and LEAF in plan:
            found = tensors[plan[LEAF]]
            return get_local(found).to(plan["device"]) if plan["local"] else found
        if isinstance(plan, dict) and JOINED in plan:
            return torch.cat([get_local(part).reshape(-1) for part in self.put_together(plan[JOINED], tensors)])
        if isinstance(plan, dict):
            return {name: self.put_together(each, tensors) for name, each in plan.items()}
        if isinstance(plan, list | tuple):
            return type(plan)(self.put_together(each, tensors) for each in plan)
        return plan
