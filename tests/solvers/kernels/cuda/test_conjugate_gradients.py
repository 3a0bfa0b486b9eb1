"""Conjugate gradients and set-up over the Triton kernels: the CPU's histories, nothing on the host, memory, errors."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch
from krylearn.pde import right_hand_side, scene

pytest.importorskip("triton", reason="Triton is for Linux: pip install krylearn[cuda]")

from cuda_cases import DEVICE, close
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels import choice
from krylearn.solvers.kernels.cuda import conjugate_gradients as cuda_cg
from krylearn.solvers.kernels.cuda.conjugate_gradients import WORKSPACE, cuda_cg_steps, cuda_product
from krylearn.solvers.kernels.cuda.formats import cell_codes
from krylearn.solvers.krylov.conjugate_gradients import cg_steps
from krylearn.solvers.krylov.system import CountedMap, Preconditioner
from krylearn.solvers.multigrid.preconditioner import build, find_rule, quantise, stencil_of
from krylearn.solvers.multigrid.setup_cuda.build import network_cycle
from krylearn.solvers.multigrid.setup_cuda.memory import memory_needed

HARDWARE = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; nothing was run on hardware"),
]
# cell-type and stored, singular and not, 2D and 3D
PROBLEMS = {
    "free_surface": ("free_surface", (6, 7, 8)),
    "lognormal": ("lognormal", (12, 13)),
    "neumann": ("neumann", (13, 12)),
    "mazes": ("mazes", (16, 15)),
}


def problem(name, device=DEVICE):
    family, shape = PROBLEMS[name]
    A = scene(family, shape, 90_101)
    b = right_hand_side(A, "white", 90_101)
    return A.to(device), b.to(device)


def started(A, b, M=None):
    """The generator, its iterate and the counted operator."""
    x = torch.zeros_like(A.to_grid(b))
    counted = CountedMap(cuda_product(A), A)
    wrapped = Preconditioner(M.apply, M) if isinstance(M, NeuralMultigrid) else M
    return cuda_cg_steps(counted, A.to_grid(b), x, wrapped), x, counted


@pytest.mark.parametrize("name", PROBLEMS)
def test_history_of_the_cpu(name):
    A, b = problem(name)
    host, c = problem(name, "cpu")
    M = NeuralMultigrid(A, kernels="triton", dtype=torch.float32)
    x, info = cg(A, b, M=M, rtol=1e-6, check_every=3)
    y, expected = cg(host, c, rtol=1e-6)
    assert info == expected == 0
    # weights at the edge of a 255th may round the other way
    assert abs(info.iterations - expected.iterations) <= 1
    shared = min(len(info.residuals), len(expected.residuals)) - 1
    np.testing.assert_allclose(info.residuals[:shared], expected.residuals[:shared], rtol=0.01)
    close(x.cpu(), y, 1e-5)


def test_plain_steps_are_the_readable_ones():
    A, b = problem("free_surface")
    ours, x, counted = started(A, b)
    grid = A.to_grid(b)
    theirs = cg_steps(CountedMap(A.apply, A), grid, torch.zeros_like(grid), None)
    for (x, r, rr, facts), (y, s, ss, more) in islice(zip(ours, theirs, strict=True), 6):
        close(r, s, 1e-11)
        assert torch.equal(x, y) or not facts or torch.allclose(x, y, rtol=1e-10)
        assert float(rr) == pytest.approx(float(ss), rel=1e-11)
        assert [float(f) for f in facts] == pytest.approx([float(m) for m in more], rel=1e-11)
    assert counted.calls == 5


def test_any_map_as_preconditioner():
    A, b = problem("lognormal")
    jacobi = Preconditioner(lambda r: r / torch.where(A.diag > 0, A.diag, 1))
    ours, _, _ = started(A, b, jacobi)
    grid = A.to_grid(b)
    theirs = cg_steps(CountedMap(A.apply, A), grid, torch.zeros_like(grid), jacobi)
    for (_, r, _, _), (_, s, _, _) in islice(zip(ours, theirs, strict=True), 5):
        close(r, s, 1e-11)


def test_starts_from_a_given_x_and_keeps_its_workspace():
    A, b = problem("neumann")
    M = NeuralMultigrid(A, kernels="triton")
    steps, x, _ = started(A, b, M)
    list(islice(steps, 3))
    first = WORKSPACE.get(A)
    first.p.fill_(torch.nan)  # what a failed solve may leave
    again = cuda_cg_steps(CountedMap(cuda_product(A), A), A.to_grid(b), x, Preconditioner(M.apply, M))
    _, r, rr, _ = next(again)
    close(r, A.to_grid(b) - A.apply(x), 1e-12)
    _, r, rr, _ = next(again)
    assert math.isfinite(float(rr))
    assert WORKSPACE.get(A) is first
    assert cuda_cg.find_workspace(A, A.to_grid(b).float(), Preconditioner(M.apply, M)) is not first


def test_no_scalar_visits_the_host(monkeypatch):
    A, b = problem("lognormal")
    steps, _, _ = started(A, b, NeuralMultigrid(A, kernels="triton"))
    next(steps)
    looks = []
    for name in ("item", "__float__", "__bool__", "__int__", "tolist"):
        original = getattr(torch.Tensor, name)

        def counted(self, *arguments, original=original, name=name):
            looks.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, counted)
    states = list(islice(steps, 3))
    assert not looks
    assert float(states[0][2]) > float(states[-1][2])  # states differ: each is a copy
    assert len(looks) == 2


def test_application_needs_no_host_and_has_any_scale():
    A, b = problem("lognormal")
    M = NeuralMultigrid(A, weights="resistor", kernels="triton", dtype=torch.float32)
    reference = NeuralMultigrid(A, weights="resistor", kernels="reference")
    r = A.to_grid(b)
    for scale in (1.0, 2.0**90, 2.0**-90):
        close(M.apply(scale * r), scale * reference.apply(r), 1e-6)
    assert not M.apply(0 * r).any()
    batch = torch.stack([r, -3 * r])
    close(M.apply(batch), reference.apply(batch), 1e-6)
    double = NeuralMultigrid(A, kernels="triton", dtype=torch.float64)  # the network too: set up by torch
    close(double.apply(r), NeuralMultigrid(A, kernels="reference", dtype=torch.float64).apply(r), 1e-13)
    assert not torch.isfinite(M.apply(r * torch.nan)).any()
    assert M.levels == reference.levels


def counted_peak(run):
    """Bytes that torch holds at once while it sets up; what kernels work on is all that there is."""
    from torch.profiler import ProfilerActivity, profile

    now = peak = 0
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        kept = run()
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    del kept
    return peak


@pytest.mark.filterwarnings("ignore:.*Profiler")
@pytest.mark.parametrize(("family", "rule"), [("lognormal", None), ("free_surface", None), ("lognormal", "geometric")])
def test_the_stated_need_is_what_torch_allocates(family, rule):
    A = scene(family, (16, 16, 16), 90_109)
    cells = cell_codes(A) is not None
    need = memory_needed((16, 16, 16), cells=cells, rule="torch" if rule else "network").setting_up
    if rule:
        peak = counted_peak(lambda: quantise(build(stencil_of(A, 0), find_rule(rule, 3)), torch.float32))
    else:
        peak = counted_peak(lambda: network_cycle(A, 0, find_rule(None, 3), torch.bfloat16))
    assert peak <= 1.1 * need  # so small a grid has coarse levels, weights and sums beside
    assert cells or peak >= 0.9 * need


def test_running_out_of_memory_says_what_is_needed_and_what_to_do(monkeypatch):
    A, b = problem("lognormal")
    M = NeuralMultigrid(A, kernels="triton", weights="geometric")

    def nothing(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("krylearn.solvers.multigrid.setup_cuda.build.network_cycle", nothing)
    need = memory_needed(tuple(A.diag.shape), cells=False)
    with pytest.raises(
        torch.cuda.OutOfMemoryError, match=f"{need.setting_up:,} bytes .* {need.solving:,} .*to\\('cpu'"
    ):
        NeuralMultigrid(A, kernels="triton")
    monkeypatch.setattr(cuda_cg, "Vectors", nothing)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"to\('cpu'"):
        cg(A, b, M=M)


def test_which_kernels_serve(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choice.backend("auto", cuda) == "triton"
    assert choice.backend("triton", cuda) == "triton"
    with pytest.raises(ValueError, match=r"A.to\('cpu'\)"):
        choice.backend("cpu", cuda)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"A.to\('cuda'\)"):
        choice.backend("triton", cpu)
    monkeypatch.setattr(choice, "have_triton", lambda: False)
    assert choice.backend("auto", cuda) == "reference"
    with pytest.raises(ImportError, match=r"krylearn\[cuda\]"):
        choice.backend("triton", cuda)


# --- on hardware ------------------------------------------------------------------------------------------------------

for_hardware = [pytest.param("free_surface", marks=HARDWARE), pytest.param("lognormal", marks=HARDWARE)]


@pytest.mark.parametrize("family", for_hardware)
def test_one_synchronisation_per_look(family):
    A = scene(family, (64, 64, 64), 90_113).to("cuda")
    b = right_hand_side(A.to("cpu"), "white", 90_113).cuda()
    cg(A, b, rtol=1e-8)  # compiles, captures
    steps, _, _ = started(A, b, NeuralMultigrid(A))
    list(islice(steps, 4))
    assert WORKSPACE.get(A).graph is not None
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(islice(steps, 5))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("family", for_hardware)
def test_same_as_the_cpu_on_hardware(family):
    A = scene(family, (65, 64, 63), 90_121)
    b = right_hand_side(A, "white", 90_121)
    x, expected = cg(A, b, rtol=1e-8)
    y, info = cg(A.to("cuda"), b.cuda(), rtol=1e-8, check_every=4)
    assert info == expected == 0
    shared = min(len(info.residuals), len(expected.residuals)) - 1
    np.testing.assert_allclose(info.residuals[:shared], expected.residuals[:shared], rtol=1e-3)
    close(y.cpu(), x, 1e-6)


def test_threads_wait_for_one_another():
    """Vectors, graph and the cycle's work space are there once: the bits are those of a serial run all the same."""
    A, b = problem("lognormal")
    M = NeuralMultigrid(A, kernels="triton", dtype=torch.float32)
    right = [b * (1 + k) + k for k in range(3)]
    work = {"solve": lambda k: cg(A, right[k], M=M, rtol=1e-4)[0], "apply": lambda k: M @ right[k]}
    for call in work.values():
        serial = [call(k) for k in range(3)]
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(call, [0, 1, 2, 0, 1, 2]))
        assert all(torch.equal(x, serial[k % 3]) for k, x in enumerate(found))
    assert WORKSPACE.get(A).thread == 0


def test_a_residual_beside_another_threads_solve_has_memory_of_its_own():
    A, b = problem("lognormal")
    states = started(A, b)[0]
    next(states)
    g = A.to_grid(b)
    with ThreadPoolExecutor(1) as pool:
        r = pool.submit(cuda_product(A).residual, g, torch.zeros_like(g)).result()
    assert r.data_ptr() != WORKSPACE.get(A).q.data_ptr() == cuda_product(A).residual(g, torch.zeros_like(g)).data_ptr()
    states.close()
    assert cuda_product(A).residual(g, torch.zeros_like(g)).data_ptr() != WORKSPACE.get(A).q.data_ptr()
