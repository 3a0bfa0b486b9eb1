"""Small networks, each named by what is hard in it for a curvature product."""

import torch
from torch import nn
from torch.nn import functional

CE, MSE = functional.cross_entropy, functional.mse_loss


class Attention(nn.Module):
    """Fused attention: no double backward unless it runs as plain mathematics."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return self.head(functional.scaled_dot_product_attention(q, k, v)[:, 0].mean(1))


class Tied(nn.Module):
    """One weight used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))[:, :3]


class TwoInputs(nn.Module):
    """Keyword inputs, and a parameter that the loss does not depend on."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(4, 3), nn.Linear(2, 3), nn.Parameter(torch.ones(2))

    def forward(self, x, *, y):
        return torch.tanh(self.a(x)) * self.b(y)


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def batchnorm():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))


def conv():
    return nn.Sequential(nn.Conv1d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3))


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3))


INPUTS = {"attention": (12, 3, 4), "conv": (12, 1, 4), "transformer": (12, 3, 4)}
NETS = {
    "mlp": mlp, "batchnorm": batchnorm, "conv": conv, "attention": Attention, "tied": Tied, "two_inputs": TwoInputs,
    "transformer": transformer,
}  # fmt: skip


def case(name, loss=CE, seed=31013, dtype=torch.float64):
    """(model, loss, batch) in float64, the same for the same seed; the global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETS[name]().to(dtype)
        x = torch.randn(INPUTS.get(name, (12, 4)), dtype=dtype)
        inputs = {"x": x, "y": torch.randn(12, 2, dtype=dtype)} if name == "two_inputs" else x
        targets = torch.randint(3, (12,)) if loss is CE else torch.randn(12, 3, dtype=dtype)
    return model, loss, (inputs, targets)
