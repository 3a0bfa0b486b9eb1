"""How far from the edge of stability is this run? Every meter with its threshold, before and after raising the lr.

python examples/watch_stability.py
"""

import torch
from krylearn.optim import gradient_noise_scale, stability
from torch import nn


def main(steps=60):
    rng = torch.Generator().manual_seed(4057)
    x = torch.randn(512, 20, generator=rng)
    y = (x @ torch.randn(20, 4, generator=rng) + torch.randn(512, 4, generator=rng)).argmax(1)
    torch.manual_seed(4073)
    model = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss = nn.functional.cross_entropy
    for _ in range(steps):
        rows = torch.randint(512, (32,), generator=rng)
        optimizer.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    report = stability(model, optimizer, (x, y), loss=loss, batch_size=32, rng=1)
    print(report)
    print(f"nearest to its threshold: {report.nearest.name}; lr could grow {report.nearest.headroom:.2f} times")
    noise = gradient_noise_scale(model, loss, (x, y), micro_batch=32)
    print(f"gradient noise scale: {noise.scale:.0f} samples")


if __name__ == "__main__":
    main()
