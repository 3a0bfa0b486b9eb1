"""One operator and one M in eight threads, and eight of each: the bits of a serial run."""

import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg, solve

KAPPA = 10.0 ** np.random.default_rng(90125).uniform(-1, 1, (40, 31))
B = np.random.default_rng(90126).standard_normal((12, KAPPA.size))


def system():
    return Poisson.from_coefficients(KAPPA)


def in_threads(work, count):
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(work, range(count)))


CALLS = {
    "M": lambda A, M, b: M @ b,
    "cg": lambda A, M, b: cg(A, b)[0],
    "explicit M": lambda A, M, b: cg(A, b, M=M)[0],
    "plain": lambda A, M, b: cg(A, b, M="none")[0],
    "solve": lambda A, M, b: solve(A, b),
    "product": lambda A, M, b: A @ b,
    "scipy": lambda A, M, b: scipy.sparse.linalg.cg(A.matrix(), b, M=M)[0],
    "nested": lambda A, M, b: cg(A, b, callback=lambda _: M @ b, M=M)[0],
}


@pytest.mark.parametrize("weights", [None, "resistor", "pieces"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_one_operator_and_one_m(call, weights):
    A = system()
    M = NeuralMultigrid(A, weights)
    serial = [call(A, M, b) for b in B]
    for k, found in enumerate(in_threads(lambda k: call(A, M, B[k % 12]), 64)):
        np.testing.assert_array_equal(found, serial[k % 12])


def test_eight_operators_set_up_at_once():
    serial = [cg(system(), b)[0] for b in B]
    operators = [system() for _ in range(8)]
    for k, found in enumerate(in_threads(lambda k: cg(operators[k % 8], B[k % 12])[0], 64)):
        np.testing.assert_array_equal(found, serial[k % 12])


def test_a_first_use_from_eight_threads():
    serial = [cg(system(), b)[0] for b in B]
    for _ in range(4):
        A = system()
        for k, found in enumerate(in_threads(lambda k, A=A: cg(A, B[k % 12])[0], 16)):
            np.testing.assert_array_equal(found, serial[k % 12])


def test_a_list_of_systems_from_threads():
    operators = [system(), system()]
    serial = cg(operators, B[:2])[0]
    for found in in_threads(lambda _: cg(operators, B[:2])[0], 16):
        np.testing.assert_array_equal(found, serial)


def test_work_space_grows_with_callers_and_shrinks_again():
    M = NeuralMultigrid(system(), "resistor")
    pool = M.fused.workspaces
    lent = [M.fused.borrow() for _ in range(5)]
    cycles = [each.__enter__() for each in lent]
    assert cycles[0] is M.fused
    assert len({id(c.levels[0].x) for c in cycles}) == 5
    assert all(c.levels[0].w is M.fused.levels[0].w for c in cycles)  # the numbers of the operator are shared
    for each in lent:
        each.__exit__(None, None, None)
    assert len(pool._idle) == 4
    for _ in range(5):
        with M.fused.borrow() as cycle:
            assert cycle is M.fused
    assert not pool._idle


def test_an_update_waits_for_no_solve_and_says_so():
    M = NeuralMultigrid(system(), "resistor")
    other = Poisson.from_coefficients(2 * KAPPA)

    def update(_):
        M.update(other)

    with pytest.raises(RuntimeError, match="1 calls use at this moment"):
        cg(M.A, B[0], M=M, callback=update)
    np.testing.assert_array_equal(M.update(other) @ B[0], NeuralMultigrid(other, "resistor") @ B[0])


@pytest.mark.parametrize("weights", [None, "resistor", "pieces"])
def test_updates_from_eight_threads_wait_for_one_another(weights):
    M = NeuralMultigrid(system(), weights)
    others = [Poisson.from_coefficients(KAPPA * (1 + k)) for k in range(3)]
    expected = [NeuralMultigrid(A, weights) @ B[0] for A in others]
    in_threads(lambda k: M.update(others[k % 3]), 24)
    last = next(k for k, A in enumerate(others) if M.A is A)
    np.testing.assert_array_equal(M @ B[0], expected[last])


def test_a_pool_keeps_no_cycle_alive():
    M = NeuralMultigrid(system(), "resistor")
    gone = weakref.ref(M.fused)
    del M
    assert gone() is None


def test_an_abandoned_solve_gives_its_work_space_back():
    A = system()
    M = NeuralMultigrid(A, "resistor")

    def stop(_):
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            cg(A, B[0], M=M, callback=stop)
    assert M.fused.workspaces._out == 0


def test_batches_of_torch_tensors_from_threads():
    A = system()
    M, r = NeuralMultigrid(A), torch.from_numpy(B)
    serial = M @ r
    assert all(torch.equal(found, serial) for found in in_threads(lambda _: M @ r, 24))


PROGRAM = """
import os, sys, threading, time
import numpy as np
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg
A = Poisson.from_coefficients(np.ones((int(sys.argv[1]),) * 2))
b = np.random.default_rng(7).standard_normal(A.shape[0])
x, _ = cg(A, b)
found = []
def work():
    found.extend(np.array_equal(cg(A, b)[0], x) for _ in range(4))
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
print("threads", len(found), all(found), flush=True)
begin, child = time.perf_counter(), os.fork()
if child == 0:
    try:
        print("child", np.array_equal(cg(A, b)[0], x), flush=True)
    except RuntimeError as error:
        print("child raises", "spawn" in str(error), flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
print("seconds", round(time.perf_counter() - begin, 2), file=sys.stderr)
print("status", status, flush=True)
print("parent", np.array_equal(cg(A, b)[0], x))
"""


@pytest.mark.parametrize("layer", ["default", "omp", "workqueue", "tbb"])
@pytest.mark.parametrize("n", [20, 300])
def test_every_threading_layer_serves_threads_and_says_what_a_fork_may(layer, n):
    if layer == "tbb":
        pytest.importorskip("numba.np.ufunc.tbbpool", reason="no libtbb on this machine", exc_type=ImportError)
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(n)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout.splitlines()
    lines = [line for line in said if line and "Unable to join threads" not in line]  # which is a remark of tbb
    assert lines[0] == "threads 32 True", done.stderr
    assert lines[1] in ("child True", "child raises True")
    assert lines[2:] == ["status 0", "parent True"]
    waited = float(done.stderr.rpartition("seconds")[2])
    assert waited < 20  # some hundredths where nothing else runs; a child that hangs never ends


def test_threads_that_wait_are_all_served():
    A = system()
    M, done = NeuralMultigrid(A), []
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        done.append(M @ B[0])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len({d.tobytes() for d in done}) == 1
