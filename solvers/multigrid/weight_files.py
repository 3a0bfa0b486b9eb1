"""Weights on disk: safetensors with an architecture id, a version and a checksum. Nothing is ever unpickled.

A file carries the tensors of one `CoefficientNetwork`; beside it stands a card (``*.json``) that says what it saw in
training. Shipped names carry a version, so that the results of a release never change:
``<dimension>d-<kind>-v<version>.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ..files import write_bytes, write_text
from .network import CoefficientNetwork

Network = TypeVar("Network", bound=nn.Module)
ARCHITECTURE = "coefficients-1"
DEFAULT = {2: "2d-network-v1", 3: "3d-network-v1"}
TUNED = {2: "2d-tuned-v1", 3: "3d-tuned-v1"}
OTHER_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")  # of other formats
WIDEST = 1024  # a damaged header must not ask for all memory
REMEDY = "train with `krylearn train`, or leave weights=None for the shipped ones"


def checksum(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        plain = tensors[name].detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes())  # as bytes: NumPy has no bfloat16
    return digest.hexdigest()


def save_weights(network: CoefficientNetwork, path: str | Path, card: dict[str, Any]) -> Path:
    """Write the network and, beside it, its card; both appear whole or not at all.

    Parameters
    ----------
    network : the trained rule
    path : where to write; ``.safetensors`` is appended, or takes the place of .pt, .pth, .bin or .ckpt
    card : JSON-serialisable facts: families, seeds, steps, hours, hardware, scores, licence

    Returns
    -------
    Path
        of the safetensors file
    """
    facts = {
        "architecture": ARCHITECTURE,
        "hidden": str(network.hidden),
        "dimension": str(card.get("dimension", "")),
    }
    return write_tensors(network.state_dict(), facts, path, card)


def write_tensors(
    state: dict[str, torch.Tensor], facts: dict[str, str], path: str | Path, card: dict[str, Any]
) -> Path:
    """Write tensors with facts (architecture and what it takes to build it) and a card, of any architecture.

    The card is written first, so weights never stand without theirs; while older weights are being replaced it holds
    their card too, so `card_beside` has the right one after a kill at any moment.
    """
    path = name_of(path)
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in state.items()}
    metadata = {**facts, "sha256": checksum(tensors)}
    whole = {**card, **metadata, "dimension": card.get("dimension")}
    text, data = json.dumps(whole, indent=2) + "\n", save(tensors, metadata)  # before all writing
    try:
        older = card_beside(path)
    except (OSError, ValueError):
        older = None  # no weights there, or none whose card anybody knows
    if older is not None:
        write_text(path.with_suffix(".json"), json.dumps({**whole, "replaces": older}, indent=2) + "\n")
    else:
        write_text(path.with_suffix(".json"), text)
    write_bytes(path, data)
    if older is not None:
        write_text(path.with_suffix(".json"), text)
    return path


def card_beside(path: str | Path) -> dict[str, Any]:
    """Read the card of a file of weights, and make sure that it is theirs.

    Parameters
    ----------
    path : of the weights, as `save_weights` returned it

    Raises
    ------
    OSError
        if there are no weights or no card
    ValueError
        if the card is of other weights

    Examples
    --------
    >>> import tempfile
    >>> path = save_weights(CoefficientNetwork(4), Path(tempfile.mkdtemp()) / "net", {"steps": 7})
    >>> card_beside(path)["steps"]
    7
    """
    path = name_of(path)
    try:
        with safe_open(path, framework="pt") as file:
            checked = (file.metadata() or {}).get("sha256", "")
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except SafetensorError as error:
        raise ValueError(f"{path.name} is truncated or no safetensors file ({error}); {REMEDY}") from None
    for found in (card, card.get("replaces")):
        if isinstance(found, dict) and checked and found.get("sha256") == checked:
            return {name: value for name, value in found.items() if name != "replaces"}
    raise ValueError(f"{path.with_suffix('.json').name} is the card of other weights than {path.name}: copy both again")


def name_of(path: str | Path) -> Path:
    """Return where weights of this name stand: a version in a name is no suffix.

    Examples
    --------
    >>> [name_of(name).name for name in ("net", "net.v1.2", "net.pt", "net.v2.safetensors")]
    ['net.safetensors', 'net.v1.2.safetensors', 'net.safetensors', 'net.v2.safetensors']
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return path
    return path.with_name((path.stem if path.suffix in OTHER_SUFFIXES else path.name) + ".safetensors")


def load_weights(path: str | Path) -> CoefficientNetwork:
    """Read a network from a safetensors file, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        if there is no such file
    ValueError
        if it is a pickle, truncated, altered, or of another architecture; the message says which and what to do
    """
    tensors, facts = read_tensors(path, ARCHITECTURE)
    path = Path(path)
    hidden = facts.get("hidden", "none")
    if not (hidden.isascii() and hidden.isdigit() and len(hidden) < 10 and int(hidden) <= WIDEST):
        raise ValueError(f"{path.name} has hidden={hidden!r:.40}; expected a width from 0 to {WIDEST}; {REMEDY}")
    return fill(lambda: CoefficientNetwork(int(hidden)), tensors, facts, path)


def architecture_of(path: str | Path) -> str:
    """Return what a safetensors file says that it holds; nothing of one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("architecture", ""))
    except (SafetensorError, OSError):
        return ""


def read_tensors(path: str | Path, architecture: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors and facts of a safetensors file of one architecture; errors as in `load_weights`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"got weights={str(path)!r}; expected a .safetensors file; {REMEDY}")
    with path.open("rb") as file:
        head = file.read(2)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        raise ValueError(
            f"{path.name} is a pickle (torch.save); expected safetensors, and nothing is unpickled here; {REMEDY}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path.name} is truncated or no safetensors file ({error}); copy it again, or {REMEDY}"
        ) from None
    if facts.get("architecture") != architecture:
        got = facts.get("architecture", "none")
        raise ValueError(f"{path.name} has architecture {got!r:.40}; expected {architecture!r}; {REMEDY}")
    return tensors, facts


def fill(make: Callable[[], Network], tensors: dict[str, torch.Tensor], facts: dict[str, str], path: Path) -> Network:
    """Make a network and put the tensors of its file into it, once they are known to fit; evaluation mode."""
    with torch.device("meta"):  # a damaged width must not take memory
        expected = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    different = [
        f"{name} {tuple(tensors[name].shape) if name in tensors else 'absent'}, expected {expected.get(name, 'none')}"
        for name in sorted(expected.keys() | tensors.keys())
        if name not in tensors or expected.get(name) != tuple(tensors[name].shape)
    ]
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        got = "; ".join(different[:3])
        raise ValueError(f"{path.name} does not hold the tensors of {facts['architecture']}: {got}{more}; {REMEDY}")
    kinds = {str(value.dtype).removeprefix("torch.") for value in tensors.values() if not value.is_floating_point()}
    if kinds:
        raise ValueError(f"{path.name} holds {', '.join(sorted(kinds))} numbers; expected float32; {REMEDY}")
    if facts.get("sha256") != checksum(tensors):
        raise ValueError(f"{path.name} differs from its checksum; copy it again, or {REMEDY}")
    network = make()
    network.load_state_dict(tensors)
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise ValueError(f"{path.name} holds NaN or inf; expected finite weights; {REMEDY}")
    return network.eval().requires_grad_(False)


@lru_cache(maxsize=8)
def shipped(name: str) -> CoefficientNetwork:
    """Read weights that came with the package, for example ``"3d-network-v1"``."""
    with resources.as_file(resources.files(__package__) / "weights" / f"{name}.safetensors") as path:
        return load_weights(path)


def card_of(name: str, package: str = __package__) -> dict[str, Any]:
    """Read the card of weights that came with a package: what they saw, for how long, how they scored.

    >>> card_of("3d-network-v1")["steps"]
    3000
    """
    return json.loads((resources.files(package) / "weights" / f"{name}.json").read_text(encoding="utf-8"))
