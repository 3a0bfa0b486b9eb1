"""A look leaves no trace: modules and random generators are to the bit what they were, whatever a forward pass does."""

# ruff: noqa: NPY002 -- the generator that users draw from is what is tested

import random

import numpy as np
import pytest
import torch
from krylearn.optim import side_effects
from krylearn.optim.side_effects import undisturbed
from torch import nn


def same_state():
    kind, words, *rest = np.random.get_state()
    return kind, words.tolist(), rest


@pytest.mark.parametrize("looks", [0, 25])
@pytest.mark.parametrize("draw", [lambda: np.random.rand(3), lambda: np.random.rand(2000), lambda: np.random.randn(5)])
def test_numpys_generator_is_put_back_however_few_looks_have_drawn(looks, draw, monkeypatch):
    monkeypatch.setattr(side_effects, "_NUMPY", side_effects._NumpyGenerator())
    np.random.seed(3)
    np.random.rand(7)
    for _ in range(looks):  # after some without a draw only the memory is compared
        with undisturbed():
            pass
    for _ in range(2):
        before = same_state()
        with undisturbed():
            draw()
        assert same_state() == before


def test_the_other_generators_are_put_back():
    random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), torch.get_rng_state()
    with undisturbed():
        random.random()
        torch.rand(3)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


class Restless(nn.Module):
    """Changes everything that a forward pass can change in its module."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.seen, self.names, self.table, self.kinds, self.empty = 0, ["a"], {"x": 1}, {"k"}, []
        self.total, self.last = torch.zeros(1), None

    def forward(self, x):
        self.mean.add_(1)
        self.register_buffer("another", torch.ones(1))
        self.mean = self.mean + 1
        self.seen += 1
        self.names.append("b")
        self.names[0] = "c"
        self.table["x"] = 2
        self.kinds.add("l")
        self.empty.append(1)
        self.total += 1
        self.last, self.fresh = x, x
        self._forward_hooks[7] = lambda *args: None
        return x


def test_what_a_forward_pass_changes_in_a_module_is_put_back():
    module = Restless()
    names = list(module.__dict__)
    mean, total, empty = module.mean, module.total, module.empty
    with undisturbed(module):
        module(torch.ones(2))
        module(torch.ones(2))
        assert module.seen == 2
    assert list(module.__dict__) == names
    assert module.mean is mean
    assert mean.tolist() == [0, 0]
    assert list(module._buffers) == ["mean"]
    assert (module.seen, module.names, module.table, module.kinds) == (0, ["a"], {"x": 1}, {"k"})
    assert module.empty is empty
    assert (empty, module.last, len(module._forward_hooks)) == ([], None, 0)
    assert module.total is total
    assert total.item() == 0
