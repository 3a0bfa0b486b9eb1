"""The network of the deep conjugate direction method, in both published sizes, in 3D and in 2D.

    h = lift r                                                   conv 1 -> 16, no activation
    a = C h,  b = C a,  a ← C b + a,  b = C a                    the "128" network once more: a ← C b + a,  b = C a
    u = pool b,  u ← R u  (3 or 5 times)                         average over blocks of two cells per axis
    u ← expand u + b,  u ← R u  (2 or 3 times)                   each coarse value copied to its block
    direction = w·u + c                                          pointwise, 16 -> 1

Each C is ReLU(conv 16 -> 16 + bias) with weights of its own, R u = C(C u) + u: ReLU acts before the addition. All
convolutions are 3 wide with zero padding. Nothing but the residual goes in: no geometry, no boundary. The map is
neither linear nor symmetric, and sees about 22 ("64") or 34 ("128") cells around a cell: for `dcdm`, not for `cg`.

Kaneda, Akar, Chen, Kala, Hyde, Teran, "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems",
ICML 2023, PMLR 202. Initial weights are those of Keras, the framework of the original: Glorot uniform, biases zero.
Departures: an odd axis is padded with zeros to an even number of cells, as convolutions pad anyway; the 2D network,
which was not published, has the same graph with convolutions of 9 weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

SIZES = {64: (4, 3, 2), 128: (6, 5, 3)}
"""Per published size: convolutions before pooling, residual blocks on the coarse grid, residual blocks after it."""


class DCDMNetwork(nn.Module):
    """The published network: unit residual in, direction out, on ``(batch, *grid)``.

    Parameters
    ----------
    size : 64 or 128; which of the published networks, named after the grids they were trained on (any grid will do)
    dimension : 3, or 2 for the same graph on planes
    width : channels, 16 as published
    generator : of the initial weights; None takes torch's global one

    Notes
    -----
    In 3D 97,457 parameters and 60,928 multiply-adds per cell for 64, 152,881 and 92,032 for 128. Activations:
    width x cells numbers per layer in flight. Weights and input in ``channels_last`` layout are about 1.4 times
    faster on a CPU and what tensor cores want; `forward` converts its input to the layout of the weights.

    Examples
    --------
    >>> network = DCDMNetwork(64)
    >>> sum(p.numel() for p in network.parameters())
    97457
    >>> network(torch.zeros(2, 9, 6, 8)).shape
    torch.Size([2, 9, 6, 8])
    """

    def __init__(
        self, size: int = 64, dimension: int = 3, width: int = 16, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if size not in SIZES or dimension not in (2, 3) or width < 1:
            raise ValueError(
                f"got size={size}, dimension={dimension}, width={width}; expected 64 or 128, 2 or 3, and 1 or more"
            )
        self.size, self.dimension, self.width = size, dimension, width
        before, coarse, after = SIZES[size]
        conv: type[nn.Conv2d | nn.Conv3d] = nn.Conv3d if dimension == 3 else nn.Conv2d
        with torch.random.fork_rng(devices=[]):  # torch's layers draw weights, which are drawn again below
            self.lift = conv(1, width, 3, padding=1)
            self.before = nn.ModuleList(conv(width, width, 3, padding=1) for _ in range(before))
            self.coarse = nn.ModuleList(conv(width, width, 3, padding=1) for _ in range(2 * coarse))
            self.after = nn.ModuleList(conv(width, width, 3, padding=1) for _ in range(2 * after))
            self.out = conv(width, 1, 1)
        self.initialise(generator)
        layout = torch.channels_last_3d if dimension == 3 else torch.channels_last
        self.to(memory_format=layout)  # type: ignore[call-overload]

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights as Keras does: uniform within sqrt(6 / (fan in + fan out)); biases are zero."""
        for layer in self.convolutions():
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def convolutions(self) -> Iterator[nn.Conv2d | nn.Conv3d]:
        """Give the convolutions in the order in which they run."""
        for layer in (self.lift, *self.before, *self.coarse, *self.after, self.out):
            assert isinstance(layer, nn.Conv2d | nn.Conv3d)
            yield layer

    def forward(self, r: Tensor) -> Tensor:
        """Propose directions for unit residuals.

        Parameters
        ----------
        r : (batch, *grid), float32 or lower; the published use has ‖r‖ = 1 for each of the batch

        Returns
        -------
        Tensor of the shape of r. Biases act everywhere: mask it where there is no unknown
        """
        grid = r.shape[1:]
        odd = [p for n in reversed(grid) for p in (0, n % 2)]
        u = nn.functional.pad(r, odd) if any(odd) else r
        u = u.unsqueeze(1)
        u = self.after_pooling(*self.before_pooling(u))
        u = self.out(u).squeeze(1)
        return u[(slice(None), *(slice(n) for n in grid))]

    def before_pooling(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fine features b and their average over blocks."""
        u = self.lift(r)
        a = torch.relu(self.before[0](u))
        b = torch.relu(self.before[1](a))
        for k in range(2, len(self.before), 2):
            a = torch.relu(self.before[k](b)) + a
            b = torch.relu(self.before[k + 1](a))
        pool = nn.functional.avg_pool3d if self.dimension == 3 else nn.functional.avg_pool2d
        return b, pool(b, 2)

    def after_pooling(self, b: Tensor, u: Tensor) -> Tensor:
        """Return the last fine features from b and the pooled ones."""
        u = residual_blocks(self.coarse, u)
        u = nn.functional.interpolate(u, scale_factor=2.0, mode="nearest") + b
        return residual_blocks(self.after, u)


def residual_blocks(layers: nn.ModuleList, u: Tensor) -> Tensor:
    """Apply R u = C(C u) + u for each pair of layers."""
    for k in range(0, len(layers), 2):
        u = torch.relu(layers[k + 1](torch.relu(layers[k](u)))) + u
    return u
