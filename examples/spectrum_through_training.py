"""The Hessian's spectrum while a network is trained: a picture, and edges with intervals.

    python examples/spectrum_through_training.py

The operator is a frozen copy: measuring does not touch the training, its buffers or its random numbers.
"""

import torch
from krylearn.optim import hessian, slq
from krylearn.optim.spectra.plots import draw_spectra
from torch import nn


def main(steps=300, picture=None):
    rng = torch.Generator().manual_seed(4021)
    centers = torch.randn(10, 64, generator=rng)
    y = torch.randint(10, (512,), generator=rng)
    x = centers[y] + 1.5 * torch.randn(512, 64, generator=rng)
    torch.manual_seed(4027)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss = nn.functional.cross_entropy
    spectra = []
    for step in range(steps + 1):
        if step % max(steps // 6, 1) == 0:
            spectrum = slq(hessian(model, loss, (x, y)), steps=40, probes=2, rng=1)
            bottom, top = spectrum.extremes()
            spectra.append((step, spectrum))
            print(f"step {step:4d}: {bottom.low:8.4f} to {bottom.high:8.4f}   {top.low:7.3f} to {top.high:7.3f}   "
                  f"trace {spectrum.trace().value:6.2f}")  # fmt: skip
        rows = torch.randint(512, (64,), generator=rng)
        optimizer.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    if picture:
        draw_spectra(spectra).savefig(picture, dpi=110)


if __name__ == "__main__":
    main(picture="spectrum.png")
    print("picture: spectrum.png")
