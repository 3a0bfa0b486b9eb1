"""Set-up of the CUDA cycle on its device, level by level by the kernels of `medium`, and what it needs there.

Work and traffic of a set-up by the network at 256^3 (16.8 million cells), counted, not measured on hardware; H100: 67
Tflop/s in fp32, 3.35 TB/s:

    bytes per cell        look at conductances 48, read and encode 58 or convert 96; circuits 14 or 28, network 16 or
                          48, pack 0 or 39, coarse sums 22 or 52; coarser levels 1/7 of the general ones:
                          190 (cell-type), 360 (general) = 1.0 and 1.8 ms at the full bandwidth
    multiply-adds         417 (damping) + 3 x 545 (weights) per evaluated cell, as many per coarse cell: 2,630 per cell
                          of a general medium, half of them in the 16 x 16 layers, on tensor cores; the rest, 1,350,
                          takes 0.7 ms at the full rate. Of a cell-type medium only cells near boundaries are evaluated.

So 2 and 5 ms leave a factor of two. The host looks a few times per operator and once per level (which axes to coarsen).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...kernels.cuda.cycle import CudaCycle
from ...kernels.cuda.formats import LEVEL, CellFormat16, Couplings, cell_codes
from ...kernels.cuda.launch import run
from ...kernels.cuda.level import CudaLevel, pattern_keys, refuse_if_large
from ...kernels.reference import Stencil
from ..coarsening import balanced_factors
from ..hierarchy import COARSEST, Hierarchy, Level, coarsen, convert_levels, generalised_inverse, varies
from ..network import DAMPING_FEATURES, GROUND_FEATURES, LINK_FEATURES, WEIGHT_FEATURES, CoefficientNetwork
from .medium import Medium, Triple
from .memory import out_of_memory
from .perceptron import LANES, packed, width_of

FEATURES = {
    "damping": DAMPING_FEATURES, "weight": WEIGHT_FEATURES, "link": LINK_FEATURES, "ground": GROUND_FEATURES
}  # fmt: skip


@triton.jit
def _pack(w, g, h, damping, wx, wy, wz, extra, sd, n, nx, ny, nz, B: tl.constexpr):
    """Write a level as the cycle stores it: conductances rounded, the diagonal summed from what was rounded."""
    c = tl.program_id(0) * B + tl.arange(0, B)
    live = c < n
    row = c // nz
    i, j, k = row // ny, row % ny, c % nz
    x, y = tl.where(i > 0, c - ny * nz, c + (nx - 1) * ny * nz), tl.where(j > 0, c - nz, c + (ny - 1) * nz)
    z = tl.where(k > 0, c - 1, c + nz - 1)
    kind = wx.dtype.element_ty
    ux, lx = tl.load(w + c, mask=live, other=0).to(kind), tl.load(w + x, mask=live, other=0).to(kind)
    uy, ly = tl.load(w + n + c, mask=live, other=0).to(kind), tl.load(w + n + y, mask=live, other=0).to(kind)
    uz, lz = tl.load(w + 2 * n + c, mask=live, other=0).to(kind), tl.load(w + 2 * n + z, mask=live, other=0).to(kind)
    ground = tl.load(g + c, mask=live, other=0) + tl.load(g + n + c, mask=live, other=0)
    e = (ground + tl.load(g + 2 * n + c, mask=live, other=0) + tl.load(h + c, mask=live, other=0)).to(kind)
    d = ux.to(tl.float32) + lx.to(tl.float32) + uy.to(tl.float32) + ly.to(tl.float32)
    d += uz.to(tl.float32) + lz.to(tl.float32) + e.to(tl.float32)
    s = tl.load(damping + c, mask=live, other=0).to(tl.float32) / 255
    tl.store(sd + c, tl.where(d > 0, s / tl.where(d > 0, d, 1), 0).to(kind), mask=live)
    tl.store(wx + c, ux, mask=live)
    tl.store(wy + c, uy, mask=live)
    tl.store(wz + c, uz, mask=live)
    tl.store(extra + c, e, mask=live)


def stored_level(m: Medium, s: Tensor, a: Tensor, factors: Triple, storage: torch.dtype) -> CudaLevel:
    """Pack a level; s : damping, a : weights, in units of 1/255."""
    x, y, z, extra, sd = (torch.empty(m.size, dtype=storage, device=s.device) for _ in range(5))
    count = triton.cdiv(m.cells, LANES)
    w, g, h, _ = m.arrays  # without its diagonal: that of the stored level is summed from what was rounded
    run(_pack, count, w, g, h, s, x, y, z, extra, sd, m.cells, *m.size, B=LANES)
    return CudaLevel(
        Couplings(LEVEL, (x, y, z, extra, sd), m.size), a.view(3, *m.size), factors, m.periodic, torch.float32
    )


def cell_level(m: Medium, paths: Tensor, factors: Triple, nets: tuple[Tensor, Tensor], width: int) -> CudaLevel:
    """Evaluate the network where the medium is not quiet, and give every cell the id of its pattern."""
    assert m.codes is not None
    cells, quiet = m.list_cells(factors)
    keys = pattern_keys(m.arrays[0][cells.long()], *m.evaluate_fine(factors, paths, nets, width, cells))
    table, ids = torch.unique(torch.cat([keys, keys.new_zeros(1)]), return_inverse=True)
    ids = ids.int()
    names = ids[-1].expand(m.cells).clone()  # the pattern of cells without an unknown
    if len(cells):
        names.masked_fill_(quiet > 0, ids[-2])
        names[cells.long()] = ids[:-1]
    return CudaLevel.from_patterns(m.codes, table, names, factors, m.periodic, torch.float32)


def network_cycle(A: Any, exponent: int, network: Any, storage: torch.dtype, coarsest: int = COARSEST) -> CudaCycle:
    """Set up the cycle of a Poisson operator divided by 2^exponent by a `CoefficientNetwork`."""
    refuse_if_large(A.diag.numel())
    device, width = A.device, width_of(network.damping)
    damping, weight, link, ground = (
        packed(getattr(network, name), features, device) for name, features in FEATURES.items()
    )
    codes = cell_codes(A) if A.diag.numel() > coarsest else None
    medium, levels = Medium.of(A, codes, exponent), []
    varying = codes is None and varies(list(medium.arrays[0].view(3, -1)))

    def choose(size: Sequence[int]) -> Triple:
        return balanced_factors(medium.mean_links(), size)

    for _, factors, times in coarsen(medium.size, choose, varying=varying, coarsest=coarsest):
        paths = medium.find_paths(factors)
        if medium.codes is not None:
            level = cell_level(medium, paths, factors, (damping, weight), width)
        else:
            level = stored_level(
                medium, *medium.evaluate_fine(factors, paths, (damping, weight), width), factors, storage
            )
        levels += [level.repeat() for _ in range(times - 1)] + [level]
        medium = medium.evaluate_coarse(factors, paths, (link, ground), width)
        del paths
    return CudaCycle(levels, medium.size, inverse_of(medium).to(device))


def inverse_of(m: Medium) -> Tensor:
    """Invert the coarsest level on the host, in fp64: so small a matrix takes longer on a device."""
    w, g, h, _ = (t.cpu() for t in m.arrays)
    op = Stencil([v.view(m.size) for v in w], [v.view(m.size) for v in g], h.view(m.size), m.periodic)
    return generalised_inverse(op).float()


# --- what the host calls ----------------------------------------------------------------------------------------------


def hierarchy_cycle(
    h: Hierarchy, codes: CellFormat16 | None = None, exponent: int = 0, storage: torch.dtype | None = None
) -> CudaCycle:
    """Take over a quantised hierarchy.

    codes : of the finest level before it was divided by 2^exponent
    storage : of the conductances of stored levels; None: as h has them
    """
    kept = storage or h.inverse.dtype

    def convert(level: Level, finest: bool) -> CudaLevel:
        return CudaLevel.from_tensors(level.op, level.s, level.transfer, kept, codes if finest else None, exponent)

    return CudaCycle(convert_levels(h, convert), h.bottom.size, h.inverse)


def device_cycle(
    A: Any, exponent: int, hierarchy: Callable[[], Hierarchy], rule: Any, storage: torch.dtype
) -> CudaCycle:
    """Set up the cycle of a Poisson operator on its device.

    Parameters
    ----------
    hierarchy : builds the quantised levels of A divided by 2^exponent
    rule : what evaluates to damping, transfer and coarse operator
    storage : dtype of the conductances that levels store

    Raises
    ------
    torch.cuda.OutOfMemoryError
        with the bytes that are needed and those that are free
    """
    try:
        if isinstance(rule, CoefficientNetwork) and storage != torch.float64:
            cycle = network_cycle(A, exponent, rule, storage)
        else:
            cycle = hierarchy_cycle(hierarchy(), cell_codes(A), exponent, storage)
        if A.device.type == "cuda":
            torch.cuda.synchronize(A.device)  # set-up is timed by the host
        return cycle
    except torch.cuda.OutOfMemoryError as error:
        raise out_of_memory(A, rule, storage) from error
