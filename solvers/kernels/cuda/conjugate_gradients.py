"""`cg_steps` over the CUDA kernels: the same states, and no scalar of the recurrence visits the host.

    z = M r with b.z | p = scale z + beta p | q = A p with p.q | r -= alpha q, r.r, the cycle's b | x += alpha p

Scalars stay on the device (`vectors`). All but the update of x is captured in a CUDA graph the second time it
runs; graph and vectors are kept on the operator, so that a further solve captures nothing. One system is solved at a
time: other threads wait, and two solves of one thread with the same operator that take turns need two operators.

Per unknown and step 14 words of the outer dtype and 2 of the cycle's, A included with four words (a quarter of a word
for cell-type operators).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from krylearn.pde.poisson.fields import Slot
from torch import Tensor

from .cycle import CUDA, CudaCycle
from .formats import couplings_of
from .launch import make_stop, new_sums, programs
from .smoothing import apply_dot
from .vectors import PAP, RR, RZ, Vectors


def cuda_product(operator: Any) -> Product:
    """Return the map x -> A x for one internal grid of a Poisson operator."""
    return Product(operator)


class Product:
    """The map x -> A x for one internal grid of a Poisson operator."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""
        return self.write(x, torch.empty_like(x, memory_format=torch.contiguous_format))

    def write(self, x: Tensor, y: Tensor) -> Tensor:
        """Write A x to y."""
        with torch.cuda.device_of(x):
            sums, go = new_sums(x.shape, x.device), make_stop(x.device)
            apply_dot(couplings_of(self.operator, x.dtype), x.contiguous(), y, sums, go)
        return y

    def residual(self, b: Tensor, x: Tensor) -> Tensor:
        """Return b - A x, between steps of a solve in the memory of its A p."""
        known = WORKSPACE.get(self.operator)
        if known is None or known.thread != threading.get_ident():
            return b - self(x)  # the memory may be that of another thread's solve
        if known.q.shape != b.shape or not known.q.dtype == b.dtype == x.dtype:
            return b - self(x)
        return torch.sub(b, self.write(x, known.q), out=known.q)


def cuda_cg_steps(A: Any, b: Tensor, x: Tensor, M: Any) -> Iterator[tuple[Tensor, Tensor, Tensor, tuple[Any, ...]]]:
    """Yield the states of `cg_steps` for a Poisson operator, scalars as tensors of no dimension on the device.

    Parameters
    ----------
    A : counted map whose `operator` is the Poisson operator
    b, x : contiguous internal grids; x is updated in place
    M : None or a map; its `operator` may be a NeuralMultigrid, whose cycle then runs without conversions
    """
    with CUDA:  # until the solve ends: vectors, graph and the cycle's work space are there once
        w = find_workspace(A.operator, b, M)
        w.thread = threading.get_ident()
        try:
            w.start(b - A(x) if bool(x.any()) else b, A.goal)
            yield x, w.r, w.copy_scalars()[RR], ()
            while True:
                with torch.cuda.device_of(b):
                    w.step()
                    w.vectors.advance(x, w.p)
                A.calls += 1
                scalars = w.copy_scalars()
                yield x, w.r, scalars[RR], (scalars[RZ], scalars[PAP])
        finally:
            w.thread = 0


def find_workspace(operator: Any, b: Tensor, M: Any) -> Workspace:
    """Return vectors and graph for a solve: those of the last one if they fit."""
    owner: Any = getattr(M, "operator", None)
    cycle = getattr(owner, "fused", None)
    if not isinstance(cycle, CudaCycle) or owner.A.diag.shape != b.shape:
        cycle = None
    known = WORKSPACE.get(operator)
    if known is not None and known.r.dtype == b.dtype and known.cycle is cycle and (cycle or M is None):
        return known
    made = Workspace(operator, b, cycle, owner.exponent - getattr(M, "power", 0) if cycle else 0)
    if cycle or M is None:
        WORKSPACE.put(operator, made)
    else:
        made.foreign = M
    return made


class Workspace:
    """Vectors of one solve, its kernels in their order, and the graph of them once there is one."""

    def __init__(self, operator: Any, b: Tensor, cycle: CudaCycle | None, exponent: int) -> None:
        self.op, self.cycle = couplings_of(operator, b.dtype), cycle
        self.foreign: Callable[[Tensor], Tensor] | None = None
        self.r, self.p = torch.zeros_like(b), torch.zeros_like(b)
        # A p borrows the cycle's work space: the two are never alive together
        lent = None if cycle is None else cycle.lend_vector(b)
        self.q = torch.zeros_like(b) if lent is None else lent
        most = max(programs(b.shape), cycle.sums_written() if cycle else 0)
        self.vectors = Vectors(b, most, exponent)
        self.graph: Any = None
        self.runs = 0
        self.thread = 0  # whose solve these vectors are in at present

    @property
    def input(self) -> Tensor | None:
        """The right-hand side of the cycle."""
        return None if self.cycle is None else self.cycle.input

    def start(self, r: Tensor, limit: float = 0.0) -> None:
        """Begin with a residual; steps after the one that brings its norm to `limit` change nothing."""
        self.r.copy_(r)
        self.p.zero_()  # it may hold NaN from a solve that failed
        with torch.cuda.device_of(r):
            self.vectors.start(self.r, self.input, limit)

    def copy_scalars(self) -> Tensor:
        """Copy the scalars of this step: the next one overwrites them before the host looks."""
        return self.vectors.scalars.clone()

    def step(self) -> None:
        """Take one step, but for the update of x."""
        self.runs += 1
        if self.graph is None and self.runs == 2 and self.r.is_cuda and self.foreign is None:
            self.graph = capture_graph(self.run)  # the first run has compiled everything
        if self.graph is None:
            self.run()
        else:
            self.graph.replay()

    def run(self) -> None:
        """Launch the kernels of one step."""
        v, count = self.vectors, programs(self.r.shape)
        z, written = self.apply_preconditioner()
        v.finish_rz(written)
        v.direction(self.p, z)
        apply_dot(self.op, self.p, self.q, v.sums, v.stop)
        v.finish_pap(count, scaled=self.cycle is not None)
        v.update_residual(self.r, self.q, self.input)
        v.finish_rr()

    def apply_preconditioner(self) -> tuple[Tensor, int]:
        """Return z, and how many partial sums of its dot product were written (0: z is r)."""
        v = self.vectors
        if self.cycle is not None:
            written = self.cycle.sums_written()
            z = self.cycle(self.cycle.input, v.sums if written else None, v.stop)
            if not written:  # a grid so small that the dense inverse is all
                v.dot(self.cycle.input, z)
            return z, written or v.programs
        if self.foreign is None:
            return self.r, 0
        z = self.foreign(self.r).contiguous()
        v.dot(self.r, z)
        return z, v.programs


WORKSPACE: Slot[Workspace] = Slot("vectors of a solve on CUDA")


def capture_graph(run: Callable[[], None]) -> Any:
    """Capture what `run` launches in a CUDA graph; None, with a warning, where that fails."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                run()
            finally:
                graph.capture_end()
    except RuntimeError as error:
        warnings.warn(f"no CUDA graph, kernels are launched one by one: {error}", RuntimeWarning, stacklevel=2)
        return None
    torch.cuda.current_stream().wait_stream(stream)
    return graph
