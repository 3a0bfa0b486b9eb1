"""The networks of the published methods on disk: safetensors with what it takes to build them, and a card."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..multigrid.weight_files import WIDEST, fill, read_tensors, write_tensors
from .dcdm_network import SIZES, DCDMNetwork

ARCHITECTURE = "dcdm-1"
SHIPPED = {(2, 64): "dcdm-2d-64-v1", (3, 64): "dcdm-3d-64-v1", (3, 128): "dcdm-3d-128-v1"}


def save_network(network: DCDMNetwork, path: str | Path, card: dict[str, Any]) -> Path:
    """Write the network and, beside it, its card; returns the path of the safetensors file."""
    facts = {
        "architecture": ARCHITECTURE,
        "size": str(network.size),
        "dimension": str(network.dimension),
        "width": str(network.width),
    }
    return write_tensors(network.state_dict(), facts, path, card)


def load_network(path: str | Path) -> DCDMNetwork:
    """Read a `DCDMNetwork` in evaluation mode; errors as in `storage.load_weights`."""
    tensors, facts = read_tensors(path, ARCHITECTURE)
    size, dimension, width = (_number(facts, name, path) for name in ("size", "dimension", "width"))
    if size not in SIZES or dimension not in (2, 3) or not 1 <= width <= WIDEST:
        raise ValueError(
            f"{Path(path).name} has size={size}, dimension={dimension}, width={width}; "
            f"expected one of {tuple(SIZES)}, 2 or 3, and 1 to {WIDEST}; train with `krylearn train dcdm`"
        )
    return fill(lambda: DCDMNetwork(size, dimension, width), tensors, facts, Path(path))


def _number(facts: dict[str, str], name: str, path: str | Path) -> int:
    text = facts.get(name, "none")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{Path(path).name} has {name}={text!r}; expected a number; train with `krylearn train dcdm`")
    return int(text)


@lru_cache(maxsize=4)
def shipped_network(name: str) -> DCDMNetwork:
    """Read weights that came with the package, for example ``"dcdm-3d-64-v1"``."""
    with resources.as_file(resources.files(__package__) / "weights" / f"{name}.safetensors") as path:
        return load_network(path)
