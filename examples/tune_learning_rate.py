"""Delete the learning-rate search: wrap the optimizer, let it observe the loss, train.

    python examples/tune_learning_rate.py [steps]

A perceptron on noisy spirals, once with an absurd learning rate, once with the tuner around the same optimizer.
"""

import math
import sys

import torch
from krylearn.optim import CurvatureTuner
from torch import nn


def spirals(samples=1500, classes=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(samples) % classes
    r = torch.rand(samples, generator=rng)
    angle = 4 * r + 2 * math.pi * y / classes + 0.2 * torch.randn(samples, generator=rng)
    return torch.stack([r * angle.cos(), r * angle.sin()], 1), y


def train(steps, lr, tuned, seed=0):
    torch.manual_seed(seed)
    x, y = spirals()
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    def loss_fn(batch):
        return nn.functional.cross_entropy(model(x[batch]), y[batch])

    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if tuned:
        optimizer = CurvatureTuner(optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        if tuned:
            optimizer.observe(loss_fn, batch)
        loss_fn(batch).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(loss_fn(torch.arange(len(x)))), optimizer


def main(steps=400, lr=1e-4):
    plain, _ = train(steps, lr, tuned=False)
    tuned, tuner = train(steps, lr, tuned=True)
    print(f"SGD with lr {lr:g}: loss {plain:.3f}")
    print(f"tuned: loss {tuned:.3f}, extra work {100 * tuner.spent / steps:.1f} % of the steps' gradients")
    for row in tuner.history:
        if row["event"] in ("start", "settled", "doubled", "rescue"):
            print(f"  step {row['step']:4d}  {row['event']:8s} lr {row['lr']:.3g}, momentum {row['momentum']:.2g}")
    return plain, tuned


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
