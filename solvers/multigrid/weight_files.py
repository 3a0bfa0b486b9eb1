"""Weights on disk: safetensors with an architecture id, a version and a checksum. Nothing is ever unpickled.

A file carries the tensors of one `CoefficientNetwork`; beside it stands a card (``*.json``) that says what it saw in
training. Shipped names carry a version, so that the results of a release never change:
``<dimension>d-<kind>-v<version>.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from .network import CoefficientNetwork

Network = TypeVar("Network", bound=nn.Module)
ARCHITECTURE = "coefficients-1"
DEFAULT = {2: "2d-network-v1", 3: "3d-network-v1"}
TUNED = {2: "2d-tuned-v1", 3: "3d-tuned-v1"}
WIDEST = 1024  # a damaged header must not ask for all memory
REMEDY = "train with `krylearn train`, or leave weights=None for the shipped ones"


def checksum(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_weights(network: CoefficientNetwork, path: str | Path, card: dict[str, Any]) -> Path:
    """Write the network and, beside it, its card; both appear whole or not at all.

    Parameters
    ----------
    network : the trained rule
    path : where to write; the suffix becomes ``.safetensors``
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
    """Write tensors with facts (architecture and what it takes to build it) and a card, of any architecture."""
    path = Path(path).with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in state.items()}
    metadata = {**facts, "sha256": checksum(tensors)}
    partial = path.with_suffix(".partial")
    partial.write_bytes(save(tensors, metadata))
    partial.replace(path)
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps({**card, **metadata, "dimension": card.get("dimension")}, indent=2) + "\n")
    partial.replace(path.with_suffix(".json"))
    return path


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
    if not (hidden.isascii() and hidden.isdigit() and int(hidden) <= WIDEST):
        raise ValueError(f"{path.name} has hidden={hidden!r}; expected a width from 0 to {WIDEST}; {REMEDY}")
    network = CoefficientNetwork(int(hidden))
    return fill(network, tensors, facts, path)


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
        raise ValueError(f"{path.name} has architecture {got!r}; expected {architecture!r}; {REMEDY}")
    return tensors, facts


def fill(network: Network, tensors: dict[str, torch.Tensor], facts: dict[str, str], path: Path) -> Network:
    """Put checked tensors into a network of their architecture; evaluation mode."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{path.name} does not hold the tensors of {facts['architecture']}: {error}; {REMEDY}"
        ) from None
    if facts.get("sha256") != checksum(tensors):
        raise ValueError(f"{path.name} differs from its checksum; copy it again, or {REMEDY}")
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
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
