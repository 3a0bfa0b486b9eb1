"""NPSDO's operator: a linear multilevel map whose stencils are functions of the geometry.

    x_0 = S_0 r,   x_l = S_l pool x_(l-1),   l = 1 ... n                       downwards
    x_(l-1) ← c x_(l-1) + c' T_(l-1) expand x_l,   l = n ... 1                 upwards

The geometry is an image of three channels (air, fluid, not solid), averaged over blocks towards coarser levels; beyond
the box all is solid. A stencil block S or T is a convolution, 3 wide, from the image to 27 weights per cell, and these
applied to u. A scalar block c is one number from the average patch of the image. pool averages blocks of two cells per
axis, expand interpolates linearly. Linear in r, since nothing else depends on r; not symmetric; no residual is computed
inside, so this is an additive method and no V-cycle.

The symmetric variant ties the way up to the way down, M_l = c² + S_lᵀ (1 + c'² expand M_(l+1) pool) S_l, where expand
copies and is thereby a multiple of poolᵀ: positive definite for any weights with c not 0, so it suits `cg`. The
authors' code has symmetric variants with tied blocks and squared scalars; the details are ours. (Without the term c² a
trained M is nearly singular where S is, and CG stalls.)

20,582 parameters for n = 4 in 3D, 5,061 multiply-adds per cell with the stencils remade at every application, as
published; 62 with the stencils kept per geometry, as here.

Lan, Gueidon, Kaneda, Panetta, Teran, "A Neural-Preconditioned Poisson Solver for Mixed Dirichlet and Neumann Boundary
Conditions", ICML 2024, PMLR 235. Departures: sizes that 2^n does not divide are padded with solid cells.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from krylearn.pde import Poisson
from torch import Tensor, nn
from torch.nn import functional


class Stencils(NamedTuple):
    """What a geometry makes of the network: weights (taps, *grid) per block, two numbers per level.

    down : n + 1 tensors, level by level;  up : n tensors, or the n + 1 transposed ones;  scalars : n pairs
    """

    down: list[Tensor]
    up: list[Tensor]
    scalars: list[tuple[Tensor, Tensor]]


class NPSDONetwork(nn.Module):
    """The published network: image of the geometry and residual in, direction out.

    Parameters
    ----------
    levels : n, how often the grid is halved; 4 or 5 as published
    dimension : 3, or 2 with 9 weights per cell
    symmetric : whether to take the variant that `cg` may use
    generator : of the initial weights

    Notes
    -----
    Initial weights: the identity in the middle of each stencil plus the uniform draws of torch's convolutions, divided
    by ten; c starts at 1, c' at a half.

    Examples
    --------
    >>> [sum(p.numel() for p in NPSDONetwork(n).parameters()) for n in (3, 4, 5)]
    [15990, 20582, 25174]
    """

    def __init__(
        self,
        levels: int = 4,
        dimension: int = 3,
        *,
        symmetric: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if levels < 1 or dimension not in (2, 3):
            raise ValueError(f"got levels={levels}, dimension={dimension}; expected 1 or more, and 2 or 3")
        self.levels, self.dimension, self.symmetric = levels, dimension, symmetric
        conv: type[nn.Conv2d | nn.Conv3d] = nn.Conv3d if dimension == 3 else nn.Conv2d
        taps = 3**dimension
        with torch.random.fork_rng(devices=[]):  # torch's layers draw weights, which are drawn again below
            self.down = nn.ModuleList(conv(3, taps, 3, padding=1) for _ in range(levels + 1))
            self.up = nn.ModuleList(conv(3, taps, 3, padding=1) for _ in range(0 if symmetric else levels))
            self.scalars = nn.ModuleList(nn.Linear(3 * taps, 2) for _ in range(levels))
        self.initialise(generator)

    def initialise(self, generator: torch.Generator | None) -> None:
        """Start near the additive method with identity stencils."""
        with torch.no_grad():
            for block in (*self.down, *self.up):
                assert isinstance(block, nn.Conv2d | nn.Conv3d)
                assert block.bias is not None
                bound = 0.1 * (3 * 3**self.dimension) ** -0.5
                block.weight.uniform_(-bound, bound, generator=generator)
                block.bias.zero_()
                block.bias[3**self.dimension // 2] = 1.0
            for block in self.scalars:
                assert isinstance(block, nn.Linear)
                block.weight.zero_()
                block.bias.copy_(torch.tensor([1.0, 0.5]))

    def stencils(self, image: Tensor) -> Stencils:
        """Turn the image (3, *grid), sizes divisible by 2^levels, into stencils: once per geometry."""
        pool = functional.avg_pool3d if self.dimension == 3 else functional.avg_pool2d
        images = [image.unsqueeze(0)]
        for _ in range(self.levels):
            images.append(pool(images[-1], 2))
        down = [block(i)[0] for block, i in zip(self.down, images, strict=True)]
        up = [block(i)[0] for block, i in zip(self.up, images, strict=False)] or [transposed(w) for w in down]
        scalars = []
        for block, i in zip(self.scalars, images, strict=False):
            c = block(mean_patch(i[0]))
            scalars.append((c[0], c[1]))
        return Stencils(down, up, scalars)

    def forward(self, s: Stencils, r: Tensor) -> Tensor:
        """Apply the map to r (batch, *grid), sizes divisible by 2^levels."""
        return self.tied(s, r, 0) if self.symmetric else self.published(s, r)

    def published(self, s: Stencils, r: Tensor) -> Tensor:
        """Go down, then up."""
        x = [apply_stencil(s.down[0], r)]
        for w in s.down[1:]:
            x.append(apply_stencil(w, self.pool(x[-1])))
        u = x.pop()
        for w, (c, c_up) in zip(reversed(s.up), reversed(s.scalars), strict=True):
            u = c * x.pop() + c_up * apply_stencil(w, self.expand(u))
        return u

    def tied(self, s: Stencils, r: Tensor, level: int) -> Tensor:
        """Apply M_l = c² + S_lᵀ (1 + c'² expand M_(l+1) pool) S_l, with expand = 2^d poolᵀ."""
        x = apply_stencil(s.down[level], r)
        if level == self.levels:
            return apply_stencil(s.up[level], x)
        c, c_up = s.scalars[level]
        coarse = self.tied(s, self.pool(x), level + 1)
        x = x + c_up**2 * functional.interpolate(coarse.unsqueeze(1), scale_factor=2.0).squeeze(1)
        return c**2 * r + apply_stencil(s.up[level], x)

    def pool(self, u: Tensor) -> Tensor:
        """Average over blocks of two cells per axis."""
        return functional.avg_pool3d(u, 2) if self.dimension == 3 else functional.avg_pool2d(u, 2)

    def expand(self, u: Tensor) -> Tensor:
        """Interpolate linearly to twice the size."""
        mode = "trilinear" if self.dimension == 3 else "bilinear"
        return functional.interpolate(u.unsqueeze(1), scale_factor=2.0, mode=mode).squeeze(1)


def shifts(dimension: int) -> list[tuple[int, ...]]:
    """Give the starts of the shifted windows of a padded field, in the order of the taps."""
    return list(product(range(3), repeat=dimension))


def padded(u: Tensor, dimension: int) -> Tensor:
    """Add a layer of zeros at every side."""
    return functional.pad(u, (1, 1) * dimension)


def window(u: Tensor, start: tuple[int, ...]) -> Tensor:
    """Cut the window of the unpadded size that begins at `start`."""
    for k, first in enumerate(start):
        axis = k - len(start)
        u = u.narrow(axis, first, u.shape[axis] - 2)
    return u


def apply_stencil(w: Tensor, u: Tensor) -> Tensor:
    """Compute (S u)_i = Σ_k w_k(i) u(i + k) for w (taps, *grid) and u (batch, *grid)."""
    dimension = w.dim() - 1
    around = padded(u, dimension)
    y = torch.zeros_like(u)
    for w_k, start in zip(w, shifts(dimension), strict=True):
        y = torch.addcmul(y, w_k, window(around, start))
    return y


def transposed(w: Tensor) -> Tensor:
    """Return the weights of Sᵀ: w'_k(j) = w_(-k)(j + k)."""
    dimension = w.dim() - 1
    around = [padded(w_k, dimension) for w_k in w]
    return torch.stack([window(around[-1 - k], start) for k, start in enumerate(shifts(dimension))])


def mean_patch(image: Tensor) -> Tensor:
    """Return the mean 3-wide patch of an image (3, *grid), zeros beyond it, flattened: channels times taps."""
    dimension = image.dim() - 1
    around = padded(image, dimension)
    means = [window(around, start).mean(dim=tuple(range(1, dimension + 1))) for start in shifts(dimension)]
    return torch.stack(means, 1).flatten()


def geometry_image(A: Poisson, multiple: int = 1) -> Tensor:
    """Return the image of the geometry, (3, *grid): air, fluid, not solid; padded with solid to a multiple.

    Examples
    --------
    >>> import numpy as np
    >>> A = Poisson.from_cells(np.array([[1, 1, 2], [1, 0, 1]]))
    >>> geometry_image(A, 4).sum((1, 2)).tolist()
    [1.0, 4.0, 5.0]
    """
    fluid = A.unknown
    air = torch.zeros_like(fluid) if A.open is None else A.open
    image = torch.stack([air, fluid, air | fluid]).float()
    if len(A.grid_shape) == 2:
        image = image.squeeze(-2)
    grow = [p for n in reversed(image.shape[1:]) for p in (0, -n % multiple)]
    return functional.pad(image, grow)
