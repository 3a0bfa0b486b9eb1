"""Batches of every kind that users make, and how a loss reads them, sometimes destroying what it reads."""

import dataclasses
from collections import UserDict, namedtuple

import torch

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass
class Data:
    x: torch.Tensor
    y: torch.Tensor


class Encoding(UserDict):
    """As tokenizers return them."""

    def to(self, device):
        return self


class Graph:
    """A class of the user's own."""

    def __init__(self, x, y):
        self.x, self.y, self.names = x, y, ["a", "b"]


BATCHES = {
    "namedtuple": (Pair, lambda b: (b.x, b.y)),
    "dataclass": (Data, lambda b: (b.x, b.y)),
    "user dict": (lambda x, y: Encoding(x=x, y=y), lambda b: (b.pop("x"), b["y"])),
    "object": (Graph, lambda b: (b.names.pop() and b.x, b.y)),
    "numpy": (
        lambda x, y: {"x": x.numpy(), "y": y.numpy()},
        lambda b: (torch.from_numpy(b["x"]), torch.from_numpy(b["y"])),
    ),
    "list with text": (lambda x, y: [x, y, "name"], lambda b: (b.pop(0), b.pop(0))),
}
