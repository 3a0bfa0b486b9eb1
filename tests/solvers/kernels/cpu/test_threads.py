"""Threads are given up while somebody else works on a core, and taken back; no solve depends on it."""

import numba
import numpy as np
import pytest
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels.cpu import threads as pace
from krylearn.solvers.kernels.cpu.threads import FIRST, LAST, Pace

CELLS = 1_000_000


class Machine:
    """Steps of 10 ms with all threads and 15 ms with fewer; with all of them `taken` where another job has a core."""

    def __init__(self):
        self.pace, self.taken, self.used = Pace(), 0.010, []

    def run(self, steps):
        for _ in range(steps):
            threads = self.pace.threads(2)
            self.used.append(threads)
            self.pace.note(CELLS, self.taken if threads == 2 else 0.015)
        return self.used[-steps:]


def test_a_quiet_machine_uses_all_threads():
    assert set(Machine().run(1000)) == {2}


def test_a_core_that_is_taken_is_given_up_and_taken_back():
    machine = Machine()
    machine.run(50)
    machine.taken = 0.3
    used = machine.run(2000)
    assert used[0] == 2  # the step that shows it
    assert used[1] == 1
    assert used.count(2) <= 8  # all threads are tried ever more rarely
    machine.taken = 0.010
    used = machine.run(LAST + 10)
    assert set(used[-5:]) == {2}
    machine.taken = 0.3
    assert machine.run(3)[1:] == [1, 1]  # and nothing is remembered of the first time


def test_a_machine_that_is_slow_anyhow_keeps_its_threads():
    machine = Machine()
    machine.pace.note(CELLS, 0.1)
    assert machine.pace.threads(2) == 1
    machine.pace.note(CELLS, 0.12)  # fewer do not help
    assert machine.pace.threads(2) == 2
    tried = 0
    for _ in range(5000):
        fewer = machine.pace.threads(2) == 1
        tried += fewer
        machine.pace.note(CELLS, 0.12 if fewer else 0.1)
    assert 1 <= tried <= 5000 // LAST + 8


def test_what_counts_as_slow_depends_on_the_best_so_far():
    many = Pace()
    for _ in range(10):
        many.note(CELLS, 0.001)  # sixty-four cores
    many.note(CELLS, 0.005)
    assert many.threads(64) == 48
    other = Pace()
    other.note(CELLS, 0.001)
    other.note(40_000, 40_000 * 5e-9)  # a small grid has another pace
    assert other.threads(64) == 64
    assert FIRST < LAST


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_no_digit_depends_on_the_threads_of_a_step(monkeypatch):
    A = Poisson.from_cells(np.ones((40, 36, 34)), boundary="dirichlet")
    b = np.random.default_rng(7).standard_normal(A.grid_shape)
    M = NeuralMultigrid(A)
    x, info = cg(A, b, rtol=1e-9, M=M)
    ticks = iter(np.cumsum(np.random.default_rng(8).choice([1e-4, 10.0], 10_000)))
    restless = Pace(clock=lambda: next(ticks))
    monkeypatch.setattr(pace, "PACE", restless)
    threads = numba.get_num_threads()
    y, other = cg(A, b, rtol=1e-9, M=M)
    assert restless.slow > 0  # it did change its mind
    assert numba.get_num_threads() == threads
    np.testing.assert_array_equal(x, y)
    assert other.residuals == info.residuals
