"""`NeuralMultigrid`: a symmetric V-cycle whose every weight is a learned function of the local conductances.

Set-up evaluates a rule level by level (`hierarchy.build`), rounds damping and prolongation weights to eight bits, and
keeps the result as plain arrays for the kernels. Applying it is linear in r: scale by a power of two, run one cycle,
scale back.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.pde.poisson import vectors
from krylearn.pde.poisson.arrays import times_power_of_two
from krylearn.pde.poisson.fields import Slot
from krylearn.pde.poisson.units import moderate
from torch import Tensor, nn

from ..kernels import choice
from ..kernels.graph_break import runs_outside_graphs
from ..kernels.reference import Stencil, Transfer
from ..kernels.turns import Turn
from . import weight_files as storage
from .graph_hierarchy import SparseCycle, build_graphs
from .hierarchy import (
    COARSEST,
    Hierarchy,
    Level,
    Rule,
    build,
    convert_levels,
    generalised_inverse,
    geometric,
    resistor,
    v_cycle,
)
from .network import CoefficientNetwork
from .pieces import graph_of
from .setup_choice import CONTRAST, MANY, IsolatedPiecesError, SetupChoice, find_contrast
from .step_sizes import ARCHITECTURE as STEPS, StepNetwork, load_steps, shipped_steps

if TYPE_CHECKING:
    from ..kernels.cpu.cell_bytes import CellBytes
    from ..kernels.cpu.cycle import FusedCycle
    from ..kernels.cpu.graph_levels import GraphCycle
    from ..kernels.cuda.cycle import CudaCycle

CLASSICAL: dict[str, Rule] = {"geometric": geometric, "resistor": resistor}
PIECES = ("pieces", "untrained pieces")
PAYS = 150_000  # cells times solves per set-up from which on the default asks the network for step sizes of pieces
BITS = 255.0  # damping and prolongation weights are multiples of 1/255
# cells up to which torch serves until kernels are compiled: 20 ms per step at 64^3, out of the processor's caches 0.3 s
MEANWHILE = 300_000


class NeuralMultigrid:
    """A learned multigrid preconditioner for `Poisson` operators: symmetric positive definite, no training per problem.

    Use it as ``M`` of our `cg`, of SciPy's, CuPy's or PyAMG's Krylov methods, or apply it: ``M @ r``.

    Parameters
    ----------
    A : Poisson
        2D or 3D, any boundary, any size; singular components are allowed.
    weights : None, str, path or torch.nn.Module
        None: ``"network"`` or ``"pieces"``, whichever a look at the operator says (on a CPU; on CUDA the network).
        ``"network"``: the shipped network of this dimension on levels that are grids. ``"pieces"``: coarse unknowns
        that are strongly connected pieces of blocks (`pieces`), for stretched meshes, layers, channels, mazes and image
        weights, smoothed by step sizes that in 3D a trained network chooses (`step_sizes`); on CUDA its levels
        run as sparse products of torch. ``"untrained pieces"``: the same without a learned number. ``"tuned"``: the
        best constants, ``"geometric"`` and ``"resistor"``: the classical rules, all on grids. A path: a safetensors
        file of `krylearn train`. A module: a rule, or a `step_sizes.StepNetwork` for pieces.
    dtype : None, torch.float32, torch.float64 or torch.bfloat16
        Of the cycle, whatever the dtype of r; fp32 inside an fp64 CG costs no iterations and half the bytes.
        torch.bfloat16 (CUDA): vectors and arithmetic in fp32, stored conductances of the levels in 16 bits. None: that
        on CUDA; else float32, but float64 where contrast asks for it: pieces that hardly anything leaves (binary media,
        image weights of a large beta), and classical rules on diagonals more than 1e6 apart; `info` says so.
    kernels : "auto", "cpu", "triton" or "reference"
        ``"auto"`` takes the fused numba kernels on a CPU, the Triton kernels on a CUDA device, plain torch elsewhere.

    reuse : int >= 1
        How many solves a set-up serves; for ``weights=None``. Small systems that are solved once are smoothed by the
        steps of the rule. Pieces have the dearer set-up and, on media that change
        from cell to cell, fewer iterations: they are taken there from some solves on.

    Attributes
    ----------
    shape, dtype : what SciPy asks for
    setup_seconds, compile_seconds : float, wall time of the last set-up, and of compiling the kernels before it
    levels : one line per level: its size and by which factors it is coarsened, or to how many pieces it is joined
    uses_pieces : bool, whether levels are pieces
    info : SetupChoice, what the set-up took: coarsening, rule, precision, kernels, and why

    Raises
    ------
    TypeError, ValueError
        for an operator that is no `Poisson`, unknown names, and files that are pickles, truncated, altered or foreign

    Notes
    -----
    Small levels are smoothed more than once: levels whose transfer is the identity, then the same level again.

    **Linear** in r, since no coefficient depends on r. **Symmetric**: the steps after the coarse correction repeat
    those before it in reverse order with the same diagonal matrices, restriction is the transpose of prolongation with
    the same eight-bit weights, and the coarsest inverse is symmetric. **Positive definite**, for *any* network weights:
    with D = diag and 0 < s <= 1 the spectrum of (s/D) A lies in (0, 2] (Gershgorin after a similarity), where
    |(1 - 0.57 t)(1 - 1.4 t)| < 1. So the smoother's error operator E = (I - 1.4 (s/D) A)(I - 0.57 (s/D) A) is a
    contraction in the energy norm, and M = (I - E* E) A⁻¹ + E* P B Pᵀ (E*)ᵀ, with E* the energy adjoint and B the
    coarse level's cycle: the first part is SPD, the second a congruence of B, which is positive by induction (the
    coarsest inverse is semidefinite). Nothing is asked of P, or of how well the coarse operator fits: whatever the
    network says there costs iterations, never definiteness. Where A is singular, the first part is still a positive
    polynomial in (s/D) A times s/D, since (1 - p(t)²)/t > 0 at t = 0 too; so M is definite there as well.

    Memory of the fused kernels: 4 (links 3, diag 1) + 1 (damping) + 3 (work) words and 3 bytes per cell and level, and
    2 words for a second visit: 42 B per cell in fp32 with all levels of a box coarsened along every axis.

    Examples
    --------
    >>> import numpy as np
    >>> A = Poisson.from_coefficients(np.ones((20, 20)))
    >>> M = NeuralMultigrid(A, weights="geometric")
    >>> r = np.ones(400)
    >>> z = M @ r
    >>> float(r @ z) > 0
    True
    """

    def __init__(
        self,
        A: Poisson,
        weights: str | Path | nn.Module | None = None,
        *,
        dtype: torch.dtype | None = None,
        kernels: str = "auto",
        reuse: int = 1,
    ) -> None:
        if not isinstance(A, Poisson):
            raise TypeError(f"got A of type {type(A).__name__}; expected krylearn.pde.Poisson; see Poisson.from_matrix")
        if dtype not in (None, torch.float32, torch.float64, torch.bfloat16):
            raise ValueError(f"got dtype={dtype}; expected torch.float32 or torch.float64 for the cycle")
        serves = choice.backend(kernels, A.device)  # refuses what cannot be
        if dtype == torch.bfloat16 and serves != "triton":
            raise ValueError("got dtype=torch.bfloat16; expected torch.float32 or torch.float64 but on CUDA")
        if not (isinstance(reuse, int) and reuse >= 1):
            raise ValueError(f"got reuse={reuse!r}; expected how many solves the set-up serves, an integer >= 1")
        self.weights, self._kernels, self._reuse = weights, kernels, reuse
        self.serves_meanwhile = False  # until kernels are compiled: then nothing else of the solve may compile any
        self._wanted = torch.float64 if dtype == torch.float64 else torch.float32
        self._any_precision = dtype is None
        self._found: Any = None  # the survey, where one was taken
        self._storage = dtype or torch.bfloat16  # of the conductances that Triton kernels read
        self._dimension = len(A.grid_shape)
        named = weights if isinstance(weights, str) else None
        self._steps = find_steps(weights, self._dimension)
        self._always_pieces = named in PIECES or (weights is not None and self._steps is not None)
        self.uses_pieces, self._chooses = self._always_pieces, weights is None and kernels == "auto"
        rule = None if named == "network" else weights
        self._rule: Any = None if self.uses_pieces else find_rule(rule, self._dimension)
        self._kept: list[Any] = []  # what a set-up leaves for the next
        self._past: Any = None  # the same of pieces: from the first update on, since it takes memory
        self._turn, self._updates = Turn(), False
        self.fused: Any = None
        self.update(A)

    def update(self, A: Poisson) -> NeuralMultigrid:
        """Set up again for another operator of the same dimension (moved obstacle, new coefficients); returns self.

        In place, bit for bit what a new `NeuralMultigrid` would be; on a CPU only what has changed is evaluated (of
        pieces from the second update on, and on the finest level).
        Several threads that update wait for one another. A solve that uses this preconditioner has to end first, since
        its numbers would change under it: on a CPU that is noticed.

        Raises
        ------
        RuntimeError
            while a solve uses this preconditioner
        """
        with self._turn:
            pool = getattr(self.fused, "workspaces", None)
            with contextlib.nullcontext() if pool is None else pool.closed():
                self._set_up(A)
                self._updates = True
                return self

    def _set_up(self, A: Poisson) -> NeuralMultigrid:
        """Set up for an operator, alone."""
        if len(A.grid_shape) != self._dimension:
            raise ValueError(
                f"got a grid of {len(A.grid_shape)} dimensions; expected {self._dimension}: make a new NeuralMultigrid"
            )
        A = A.detach().dominant()  # gradients are the business of `solve`, a negative shift is that of CG
        self.backend = choice.backend(self._kernels, A.device)
        if self._always_pieces and (self.backend == "triton" or A.unknown.numel() <= COARSEST):
            self.backend = "reference"
        start = time.perf_counter()
        self.A, self.shape, self.dtype = A, A.shape, A.dtype
        self._inside, outer = moderate(A)  # what is set up; `exponent` is that of A
        self._double: NeuralMultigrid | None = None
        # the cycle is one of A / (mantissa 2^exponent): a power of two, or the one conductance of a cell-type problem,
        # so that SI units and cg(8A, 8b) change no digit
        # what is inverted without any smoothing is inverted in fp64: there is nothing that would repair its rounding
        alone = A.unknown.numel() <= COARSEST and self.backend != "triton"
        self.cycle_dtype = torch.float64 if alone else self._wanted
        self._reasons = self._look_at_contrast()
        self._codes = self._find_codes()
        self.exponent = self._exponent + outer
        self.compile_seconds, self._found = 0.0, None
        if self._chooses:
            self.uses_pieces = self.backend == "cpu" and A.unknown.numel() > COARSEST and self._wants_pieces()
        self.compile_seconds += self._compile()
        self._hierarchy: Hierarchy | None = None
        self.fused = None
        self._sparse: SparseCycle | None = None
        if self.uses_pieces and self.backend == "cpu":
            self.fused = self._pieces_cycle()
        elif self.uses_pieces:
            self._sparse = self._sparse_cycle()
        elif self.backend == "cpu":
            self.fused = self._fused_cycle()
        elif self.backend == "triton":
            self.fused = self._cuda_cycle()
        else:
            self._hierarchy = self.hierarchy
        self.setup_seconds = time.perf_counter() - start - self.compile_seconds
        self.info = self._describe()
        return self

    def _look_at_contrast(self) -> list[str]:
        """Take fp64 for a rule on grids where diagonals are many decades apart; return the reason.

        Not for the network: it is set up in fp32, and where contrast would cost it iterations the default takes pieces.
        """
        by_network = isinstance(self._rule, CoefficientNetwork)
        if self.uses_pieces or by_network or not self._any_precision or self.backend == "triton":
            return []
        if self.cycle_dtype == torch.float64 or self._inside.voxels is not None or self._inside.device.type == "mps":
            return []
        contrast = find_contrast(self._inside.diag)
        if contrast < CONTRAST:
            return []
        self.cycle_dtype = torch.float64
        return [f"float64, since diagonals are {contrast:.1g} apart"]

    def _describe(self) -> SetupChoice:
        """Say what was chosen."""
        kernels = {"cpu": "numba", "triton": "Triton", "reference": "torch"}[self.backend]
        if self._sparse is not None:
            kernels = "sparse products of torch"
        rule = self.weights if isinstance(self.weights, str | Path) else "network"
        if self.uses_pieces:
            rule = "resistor" if self.steps is None else "trained"
        elif not isinstance(self.weights, str | Path | None):
            rule = "network" if isinstance(self._rule, CoefficientNetwork) else "module"
        precision = str(self.cycle_dtype).removeprefix("torch.")
        if self.backend == "triton" and self._storage == torch.bfloat16 and self.cycle_dtype == torch.float32:
            precision = "bfloat16"
        coarsening = "pieces" if self.uses_pieces else "blocks"
        if self.A.unknown.numel() <= COARSEST and self.backend != "triton":
            coarsening, why = "none", f"{self.A.unknown.numel()} cells"
        elif self.weights is not None:
            why = "asked for"
        elif self._found is None:
            why = "the default, but for the fused kernels of a CPU, which may take pieces"
        else:
            why = self._found.explain(self._reuse)
            if self.uses_pieces and self.steps is not self._steps:
                why += f"; steps of the rule, since trained ones pay from {PAYS:,} cells times solves on"
        why = "; ".join([why, *self._reasons])
        return SetupChoice(coarsening, str(rule), precision, kernels, self._reuse, tuple(self.levels), why)

    def _wants_pieces(self) -> bool:
        """Look whether pieces suit this operator better than grid levels."""
        from .setup_pieces.survey import survey_operator
        from .warmup import compile_survey, kind_of

        start = time.perf_counter()
        compile_survey(kind_of(self._inside, self._codes))
        self.compile_seconds = time.perf_counter() - start
        self._found = survey_operator(self._inside, self._codes)
        return self._found.prefers_pieces(self._reuse)

    def _compile(self) -> float:
        """Compile the kernels for problems of this kind; return the seconds, few if they are in the disk cache."""
        start = time.perf_counter()
        if self.backend == "cpu":
            from .warmup import compile_kernels, compile_pieces, kind_of

            kind = kind_of(self._inside, self._codes)
            if self.uses_pieces:
                compile_pieces(kind, self.cycle_dtype == torch.float64)
            else:
                compile_kernels(kind)
        return time.perf_counter() - start

    def _fused_cycle(self) -> FusedCycle:
        """Set up by fused kernels where the rule is the network and the cycle fp32, else from the torch hierarchy."""
        if isinstance(self._rule, CoefficientNetwork) and self.cycle_dtype == torch.float32:
            from .setup_cpu.build import learned_cycle

            unit = self._exponent, self.mantissa
            return learned_cycle(self._inside, unit[0], self._rule, COARSEST, unit[1], self._codes, self._kept)
        from ..kernels.cpu.cycle import FusedCycle, FusedLevel

        def convert(level: Level, finest: bool) -> FusedLevel:
            return FusedLevel.from_tensors(level.op, level.s, level.transfer, self._codes if finest else None)

        h = self.hierarchy
        return FusedCycle(convert_levels(h, convert), h.bottom.size, h.inverse)

    def _find_codes(self) -> CellBytes | None:
        """Return the bytes of a cell-type problem for the CPU kernels; scale by its conductance, else by 2^exponent."""
        codes = None
        if self.backend == "cpu" and self.cycle_dtype == torch.float32:
            from ..kernels.cpu.cell_bytes import find_cell_bytes

            codes = find_cell_bytes(self._inside)
        self._exponent, self.mantissa = power_of_two(codes.unit if codes else float(self._inside.diag.max())), 1.0
        if codes is not None:
            self.mantissa = math.ldexp(codes.unit, -self._exponent)
        return codes

    def _pieces_cycle(self) -> GraphCycle:
        """Set up levels of pieces by compiled kernels."""
        from .setup_pieces.build import pieces_cycle
        from .setup_pieces.changes import Past

        if self._updates and self._past is None:
            self._past = Past()

        def build_in(kind: Any, allowed: float) -> GraphCycle:
            unit = self._exponent, self.mantissa
            return pieces_cycle(
                self._inside, *unit, self._codes, kind, COARSEST, allowed=allowed, past=self._past, network=self.steps
            )

        if self.cycle_dtype == torch.float64:
            return build_in(np.float64, 1.0)
        try:
            return build_in(np.float32, MANY if self._any_precision and self._codes is None else 1.0)
        except IsolatedPiecesError as found:
            self._take_double(found.share)
            self.compile_seconds += self._compile()
            return build_in(np.float64, 1.0)

    def _sparse_cycle(self) -> SparseCycle:
        """Set up levels of pieces in NumPy, to be applied as sparse products."""
        graph, cells = graph_of(self._inside, math.ldexp(1.0, -self._exponent) / self.mantissa)
        size, levels = tuple(self._inside.unknown.shape), build_graphs(graph)
        free = self._any_precision and self.cycle_dtype == torch.float32 and self._inside.device.type != "mps"
        if free and levels.isolated > MANY:
            self._take_double(levels.isolated)
        return SparseCycle(levels, cells, size, self.cycle_dtype, self._inside.device, self.steps)

    @property
    def steps(self) -> StepNetwork | None:
        """What chooses the step sizes of pieces, None for those of the rule."""
        # looking at the levels takes 2 ms at 32^3, which a solve or two there do not gain back
        pays = self.weights is not None or self._reuse * self.A.unknown.numel() >= PAYS
        return self._steps if pays else None

    def _take_double(self, isolated: float) -> None:
        """Run the cycle in fp64, since pieces are isolated; note the reason."""
        self.cycle_dtype = torch.float64
        self._reasons.append(f"float64, since {isolated:.0%} of the pieces of a level are left by next to nothing")

    def _cuda_cycle(self) -> CudaCycle:
        """Set up on the device by the torch rule, keep what the kernels read; say what a set-up needs if it fails."""
        from .setup_cuda.build import device_cycle

        cycle = device_cycle(self._inside, self._exponent, lambda: self.hierarchy, self._rule, self._storage)
        self._hierarchy = None
        return cycle

    @property
    def hierarchy(self) -> Hierarchy:
        """The levels as torch tensors, built on demand where the fused kernels did without."""
        if self._hierarchy is None:
            with torch.no_grad():
                levels = build(
                    stencil_of(self._inside, self._exponent, self.mantissa), rule_on(self._inside.device, self._rule)
                )
                self._hierarchy = quantise(levels, self.cycle_dtype)
        return self._hierarchy

    # --- application --------------------------------------------------------------------------------------------------
    def cycle(self, b: Tensor) -> Tensor:
        """Run one V-cycle on an internal grid of the cycle's dtype, scaled to about 1; leading axes are batches."""
        if self._sparse is not None:
            return self._sparse.apply(b)
        if self.fused is None:
            return v_cycle(self.hierarchy, b)
        if b.dim() == 3:
            return self.fused.apply(b)
        return torch.stack([self.cycle(v) for v in b.flatten(0, -4)]).view(b.shape)

    def apply(self, r: Tensor, power: int = 0) -> Tensor:
        """Return 2^power M r on the internal grid, in the dtype of r; leading axes are batches."""
        if r.dim() > 3:  # each has a scale of its own
            rows = [self.apply(v, power) for v in r.flatten(0, -4)]
            return torch.stack(rows).view(r.shape) if rows else r.clone()
        if self.backend == "triton":
            return self.fused.scaled_apply(r, self.exponent - power)
        largest = float(r.abs().max()) if r.numel() else 0.0
        if not math.isfinite(largest) or largest == 0:
            return r * self.A.unknown.to(r.dtype)
        e = power_of_two(largest)
        with torch.no_grad():
            z = self.cycle(times_power_of_two(r, -e).to(self.cycle_dtype)).to(r.dtype)
        return times_power_of_two(z / self.mantissa, e - self.exponent + power)

    @runs_outside_graphs
    def matvec(self, r: Any) -> Any:
        """Return M r in the shape, array type, dtype and device of r: what ``A @ r`` takes, this takes too."""
        return vectors.apply_map(self.A, r, self.apply, lambda v, alone: alone.inverse * v)

    rmatvec = matvec
    __matmul__ = matvec
    __call__ = matvec

    def matmat(self, R: Any) -> Any:
        """M applied to the columns of R (SciPy's layout): what ``M @ R`` does too."""
        return self.matvec(R)

    rmatmat = matmat

    def exact(self, r: Tensor, power: int = 0) -> Tensor:
        """Apply the same cycle in fp64 to an internal grid: asked for when rounding in fp32 made r.z <= 0."""
        if self.cycle_dtype == torch.float64:
            return self.apply(r, power)
        if self._double is None:
            self._double = NeuralMultigrid(
                self.A, self.weights, dtype=torch.float64, kernels=self._kernels, reuse=self._reuse
            )
        return self._double.apply(r, power)

    @property
    def levels(self) -> list[str]:
        """One line per level, fine to coarse."""
        if self._sparse is not None:
            return self._sparse.describe()
        if self.uses_pieces:
            return self.fused.describe()
        if self.fused is not None:
            parts = [(v.size, tuple(map(int, v.factors))) for v in self.fused.levels]
            bottom = tuple(self.fused.bottom_b.shape)
        else:
            parts = [(v.op.size, v.transfer.factors) for v in self.hierarchy.levels]
            bottom = self.hierarchy.bottom.size
        lines = [f"{' x '.join(map(str, size))}, coarsened by {factors}" for size, factors in parts]
        return [*lines, f"{' x '.join(map(str, bottom))}, inverted"]

    def __repr__(self) -> str:
        return f"NeuralMultigrid({self.A!r}, setup={self.setup_seconds:.3g} s, {self.info})"


def power_of_two(value: float) -> int:
    """Return e with 2^(e-1) <= value < 2^e for a positive finite value; 0 for anything else."""
    return math.frexp(value)[1] if math.isfinite(value) and value > 0 else 0


def find_steps(weights: str | Path | nn.Module | None, dimension: int) -> StepNetwork | None:
    """Return what chooses the step sizes of pieces, None for those of the rule or where there are no pieces."""
    if weights is None or (isinstance(weights, str) and weights == "pieces"):
        return shipped_steps(dimension)
    if isinstance(weights, StepNetwork):
        return weights.eval()
    if isinstance(weights, str | Path) and Path(weights).is_file() and storage.architecture_of(weights) == STEPS:
        return load_steps(weights)
    return None


def find_rule(weights: str | Path | nn.Module | None, dimension: int) -> Rule:
    """Return the rule that a `weights` argument means."""
    if weights is None:
        return storage.shipped(storage.DEFAULT[dimension])
    if isinstance(weights, nn.Module):
        return weights.eval()
    if isinstance(weights, str) and weights in CLASSICAL:
        return CLASSICAL[weights]
    if weights == "tuned":
        return storage.shipped(storage.TUNED[dimension])
    if isinstance(weights, str | Path):
        if Path(weights).suffix or Path(weights).exists():
            return storage.load_weights(weights)
        known = ", ".join(map(repr, ("network", *PIECES, *CLASSICAL, "tuned")))
        raise ValueError(f"got weights={weights!r}; expected None, {known}, a .safetensors file or a module")
    raise TypeError(f"got weights of type {type(weights).__name__}; expected None, a name, a path or a torch.nn.Module")


def rule_on(device: torch.device, rule: Rule) -> Rule:
    """Return the rule for stencils on a device: a network is copied there, since others may share it."""
    if not isinstance(rule, nn.Module) or all(p.device == device for p in rule.parameters()):
        return rule
    return copy.deepcopy(rule).to(device)


def stencil_of(A: Poisson, exponent: int, mantissa: float = 1.0) -> Stencil:
    """Return the operator in fp32, divided by mantissa 2^exponent."""

    def scaled(t: Tensor) -> Tensor:
        return (times_power_of_two(t, -exponent) / mantissa).float()

    return Stencil([scaled(w) for w in A.links], [scaled(g) for g in A.ground], scaled(A.shift), A.periodic)


def quantise(h: Hierarchy, dtype: torch.dtype) -> Hierarchy:
    """Round damping (to at least 1/255) and prolongation weights to multiples of 1/255; set the dtype of the cycle."""

    def rounded(t: Tensor) -> Tensor:
        return torch.round(t.to(dtype) * BITS) / BITS

    levels = []
    for level in h.levels:
        op, t = level.op.to(dtype), level.transfer
        s = torch.where(op.mask > 0, rounded(level.s).clamp_min(1 / BITS), 0)
        weights = [None if a is None else rounded(a) for a in t.weights]
        levels.append(Level(op, s, Transfer(weights, t.factors, op.mask, t.periodic)))
    return Hierarchy(levels, h.bottom.to(dtype), generalised_inverse(h.bottom, dtype).to(dtype))


def default_preconditioner(A: Poisson, weights: Any = None, meanwhile: bool = False) -> NeuralMultigrid:
    """Return the preconditioner that `cg` uses for A, cached on A by weights: a second set-up is free.

    meanwhile : if the kernels are not compiled yet, return one in torch while another process compiles them
    """
    name = weights if isinstance(weights, str | Path | None) else id(weights)
    slot: Slot[NeuralMultigrid] = Slot(f"NeuralMultigrid, weights {name}")
    first: Slot[NeuralMultigrid] = Slot(f"NeuralMultigrid without kernels, weights {name}")
    if meanwhile and not slot.is_filled(A) and _lacks_kernels(A, weights):
        return first.compute_once(A, lambda: _make_without_kernels(A, weights))
    first.clear(A)
    return slot.compute_once(A, lambda: NeuralMultigrid(A, weights))


def _lacks_kernels(A: Poisson, weights: Any) -> bool:
    """Tell whether kernels for A are being compiled by another process, and torch can serve until they are there."""
    if weights in PIECES or A.device.type != "cpu" or not COARSEST < A.unknown.numel() <= MEANWHILE:
        return False
    from ..kernels.cpu.cell_bytes import find_cell_bytes
    from . import background
    from .readiness import is_ready
    from .warmup import kind_of

    if not background.may_serve_meanwhile():
        return False
    inside, _ = moderate(A.detach().dominant())
    kind = kind_of(inside, None if inside.voxels is not None else find_cell_bytes(inside))
    return not is_ready(kind) and background.compile_meanwhile(kind)


def _make_without_kernels(A: Poisson, weights: Any) -> NeuralMultigrid:
    """Set up the same levels and rule in torch."""
    M = NeuralMultigrid(A, weights, kernels="reference")
    M.serves_meanwhile = True
    return M
