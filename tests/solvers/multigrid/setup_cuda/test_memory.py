"""What is moved, held, launched and looked at, counted on the arrays and launches themselves against the budgets."""

import threading
from itertools import islice

import pytest
import torch
from krylearn.pde import right_hand_side, scene
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="Triton is for Linux: pip install krylearn[cuda]")

from cuda_cases import DEVICE, close, hierarchy_as_stored, vector
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels.cuda import (
    launch,
    small_levels as cuda_tail,
    transfer as cuda_transfer,
    vectors as cuda_vectors,
)
from krylearn.solvers.kernels.cuda.conjugate_gradients import WORKSPACE, cuda_cg_steps, cuda_product, find_workspace
from krylearn.solvers.kernels.cuda.formats import TABLE, cell_codes
from krylearn.solvers.krylov import driver as krylov
from krylearn.solvers.krylov.system import CountedMap, Preconditioner
from krylearn.solvers.multigrid.hierarchy import build, geometric, resistor, v_cycle
from krylearn.solvers.multigrid.preconditioner import power_of_two, quantise, stencil_of
from krylearn.solvers.multigrid.setup_cuda.build import hierarchy_cycle
from krylearn.solvers.multigrid.setup_cuda.memory import memory_needed, step_bytes, traffic
from multigrid_cases import rough

FAMILIES = {"free_surface": True, "lognormal": False}  # whether cell-type
BUDGET = {True: 82, False: 180}  # bytes per cell and application; 80 but for levels that are smoothed twice
MEMORY = {True: 64, False: 84}  # bytes per cell beyond operator and right-hand side
PUBLISHED = {  # as the docstrings of `cuda` and `cuda_budget` say
    (True, torch.bfloat16): 81, (False, torch.bfloat16): 130, (True, torch.float32): 87, (False, torch.float32): 180
}  # fmt: skip


def cycle_of(A, rule=geometric, storage=torch.bfloat16, coarsest=128):
    exponent = power_of_two(float(A.diag.max()))
    h = quantise(build(stencil_of(A, exponent), rule, coarsest), torch.float32)
    return h, hierarchy_cycle(h, cell_codes(A), exponent, storage)


@pytest.fixture(scope="module")
def systems():
    made = {name: scene(name, (32, 32, 32), 90_301).to(DEVICE) for name in FAMILIES}
    for A in made.values():
        cell_codes(A)  # found by a kernel: before launches are written down instead of run
    return made


@pytest.fixture
def launches(monkeypatch):
    """Launches are written down, not run."""
    seen = []

    def note(kernel, count, *arguments, **constants):
        seen.append((kernel.fn.__name__, dict(zip(kernel.arg_names, arguments, strict=False)), constants))

    for module in (launch, cuda_transfer, cuda_tail, cuda_vectors):
        monkeypatch.setattr(module, "run", note)
    return seen


def moved(name, arguments, constants, tables):
    """Bytes of one launch: every array once, what is changed in place twice, but tables and what the form ignores."""
    stored = constants.get("FORM") != TABLE
    arrays = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor) and k not in ("stop", "sums")}
    if stored and name in ("_restrict", "_prolong"):
        del arrays["w0"]
    once = {v.data_ptr(): v.nbytes for v in arrays.values() if v.data_ptr() not in tables}
    return sum(once.values()) + (arrays["r"].nbytes if name in ("_correct", "_finish") else 0)


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_per_application(family, storage, systems, monkeypatch, launches):
    monkeypatch.setattr(cuda_tail, "TAIL", 0)  # every level by its own kernels
    A, cells = systems[family], FAMILIES[family]
    _, cycle = cycle_of(A, storage=storage)
    assert (cycle.levels[0].op.form == TABLE) == cells
    cycle(cycle.input)
    tables = {t.data_ptr() for t in (*cycle.levels[0].op.arrays[1:], cycle.levels[0].a)} if cells else set()
    tables |= {cycle.inverse.data_ptr()}  # small, at a size that counts, and in cache
    counted = sum(moved(*each, tables) for each in launches) / A.diag.numel()
    assert counted == pytest.approx((traffic(cycle) - cycle.inverse.nbytes) / A.diag.numel(), rel=1e-3)
    assert counted == pytest.approx(PUBLISHED[cells, storage], rel=0.01)
    if storage == torch.bfloat16:
        assert counted <= BUDGET[cells]


@pytest.mark.parametrize("family", FAMILIES)
def test_launches_of_an_application_and_of_a_step(family, systems, launches):
    """Six per level that fills the chip, one for all others; seven beside the cycle; no torch operation among them."""
    A = systems[family]
    M = NeuralMultigrid(A, kernels="triton", weights="geometric")
    cycle, b = M.fused, torch.zeros(A.diag.shape, dtype=torch.float64, device=DEVICE)
    visited = [32, 16, 8, 8] if FAMILIES[family] else [32, 16, 16, 8, 8, 8, 8]  # those of 8 in one launch
    assert [v.size[0] for v in cycle.levels] == visited
    launches.clear()
    cycle(cycle.input)
    large = [n for n in visited if n > 8]
    again = len(large) - len(set(large))  # four of these: restriction and prolongation are the identity
    assert len(launches) == 6 * len(large) - 2 * again + 1
    w = find_workspace(A, b, Preconditioner(M.apply, M))
    launches.clear()
    with NoTorch():
        w.run()
        w.vectors.advance(b, w.p)
    assert len(launches) == 6 * len(large) - 2 * again + 1 + 7
    assert w.q.data_ptr() == cycle.levels[0].scratch.data_ptr()  # lent


class NoTorch(TorchDispatchMode):
    """What a graph captures launches kernels and does nothing else: no allocation, no copy, no number for the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} inside the captured region")


def test_the_tail_is_the_levels_one_by_one():
    A = rough((9, 10, 11), {"x": "periodic", "z-": "dirichlet"}).to(DEVICE)
    h, cycle = cycle_of(A, resistor, torch.float32, coarsest=8)
    assert [v.size for v in cycle.levels[cycle.cut :]] == [(5, 5, 6)] * 2 + [(3, 3, 3)] * 4
    b = vector(cycle.levels[0].size) * A.unknown
    close(cycle.apply(b), v_cycle(hierarchy_as_stored(h, cycle), b))


def test_an_older_triton_runs_every_level_by_its_own_kernels(monkeypatch):
    monkeypatch.setattr(cuda_tail, "SUPPORTED", False)
    A = rough((9, 10, 11), {"x": "periodic", "z-": "dirichlet"}).to(DEVICE)
    h, cycle = cycle_of(A, resistor, torch.float32, coarsest=8)
    assert cycle.tail is None
    b = vector(cycle.levels[0].size) * A.unknown
    close(cycle.apply(b), v_cycle(hierarchy_as_stored(h, cycle), b))


@pytest.mark.parametrize("family", FAMILIES)
def test_memory(family, systems, launches):
    """The arrays themselves against what the function states, and that against the budget at 256 cubed."""
    A, cells = systems[family], FAMILIES[family]
    M = NeuralMultigrid(A, kernels="triton", weights="geometric")
    b = torch.zeros(A.diag.shape, dtype=torch.float64, device=DEVICE)
    w = find_workspace(A, b, Preconditioner(M.apply, M))
    own = [t for t in (w.r, w.p, w.q) if t.data_ptr() != M.fused.levels[0].scratch.data_ptr()]
    held = M.fused.nbytes + sum(t.nbytes for t in own) + 2 * b.nbytes  # and x, and a copy of b
    assert held == pytest.approx(memory_needed((32, 32, 32), cells=cells).solving, rel=0.03)
    for storage in (torch.bfloat16, torch.float32):
        need = memory_needed((256, 256, 256), cells=cells, storage=storage)
        assert need.solving <= MEMORY[cells] * 256**3


def test_the_true_residual_needs_no_memory_of_its_own():
    A = scene("lognormal", (6, 7, 8), 90_307).to(DEVICE)
    b = right_hand_side(A.to("cpu"), "white", 90_307).to(DEVICE)
    M = NeuralMultigrid(A, kernels="triton", weights="geometric")
    product, x, grid = cuda_product(A), vector(tuple(A.diag.shape), dtype=torch.float64), A.to_grid(b)
    before = product.residual(grid, x)
    w = find_workspace(A, grid, Preconditioner(M.apply, M))
    w.thread = threading.get_ident()  # as during a solve: what belongs to this thread may be borrowed by it
    r = product.residual(grid, x)
    assert r.data_ptr() == w.q.data_ptr()
    assert torch.equal(r, before)
    close(r, grid - A.apply(x), 1e-13)


def test_step_bytes_are_those_of_its_launches(systems, launches):
    for family, cells in FAMILIES.items():
        A = systems[family]
        M = NeuralMultigrid(A, kernels="triton", weights="geometric")
        w = find_workspace(A, torch.zeros(A.diag.shape, dtype=torch.float64, device=DEVICE), Preconditioner(M.apply, M))
        x = torch.zeros_like(w.r)
        launches.clear()
        w.run()
        w.vectors.advance(x, w.p)
        own = [v for v in launches if v[0] in ("_direction", "_apply_dot", "_update_residual", "_advance")]
        twice = {"_direction": "p", "_update_residual": "r", "_advance": "x"}
        counted = 0
        for name, arguments, _ in own:
            small = ("stop", "sums", "scalars")
            arrays = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor) and k not in small}
            counted += sum({v.data_ptr(): v.nbytes for v in arrays.values()}.values())
            counted += arrays[twice[name]].nbytes if name in twice else 0
        assert counted / A.diag.numel() == pytest.approx(step_bytes(cells), rel=1e-3)


# --- the host ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    A = scene("lognormal", (12, 13), 90_311).to(DEVICE)
    b = right_hand_side(A.to("cpu"), "white", 90_311).to(DEVICE)
    return A, b, NeuralMultigrid(A, kernels="triton", weights="geometric")


def test_the_host_looks_every_so_many_steps_and_finds_the_first_iterate_that_passed(small, monkeypatch):
    A, b, M = small
    looks, original = [], krylov._on_host

    def counted(pending):
        looks.append(len(pending))
        return original(pending)

    monkeypatch.setattr(krylov, "_on_host", counted)
    x, info = cg(A, b, M=M, rtol=1e-6)
    assert info == 0
    assert len(looks) == info.iterations + 1
    for every in (4, 7):
        looks.clear()
        y, same = cg(A, b, M=M, rtol=1e-6, check_every=every)
        assert same == 0
        assert len(looks) == 1 + -(-info.iterations // every)
        assert torch.equal(x, y)
        assert same.residuals == info.residuals
        assert (same.iterations, same.matvecs) == (info.iterations, info.matvecs)


def test_steps_after_the_goal_change_nothing(small):
    A, b, M = small
    grid = A.to_grid(b)
    counted, x = CountedMap(cuda_product(A), A), torch.zeros_like(grid)
    counted.goal = 1e-3 * float(torch.linalg.vector_norm(grid))
    steps = cuda_cg_steps(counted, grid, x, Preconditioner(M.apply, M))
    norms = [float(rr) ** 0.5 for _, _, rr, _ in islice(steps, 1)]
    while norms[-1] > counted.goal:
        norms.append(float(next(steps)[2]) ** 0.5)
    close(grid - A.apply(x), WORKSPACE.get(A).r, 1e-8)  # the step that met the goal moved x too
    before, r = x.clone(), WORKSPACE.get(A).r.clone()
    more = [float(rr) ** 0.5 for _, _, rr, _ in islice(steps, 2)]
    assert more == [norms[-1]] * 2
    assert torch.equal(x, before)
    assert torch.equal(WORKSPACE.get(A).r, r)
