import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from krylearn.bench.measure.timers import HostTimer
from krylearn.bench.measure.timing import Pair, Timing, iterations_to, paired, timed, true_relative_residual


class FakeClock:
    """Seconds that pass only when somebody works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds, answer=None):
        def run():
            self.now += seconds
            return answer

        return run


def test_the_timer_counts_the_work_and_nothing_else():
    clock = FakeClock()
    timing, answer = timed(clock.work(2.0, "x"), repeats=5, warmup=2, timer=HostTimer(clock))
    assert timing.seconds == (2.0,) * 5
    assert answer == "x"
    assert clock.now == 14.0


def test_the_warm_up_is_not_timed():
    clock, costs = FakeClock(), iter([100.0, 1.0, 1.0])
    timing, _ = timed(lambda: clock.work(next(costs))(), repeats=2, warmup=1, timer=HostTimer(clock))
    assert timing.high == 1.0


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (1, -1)])
def test_senseless_repeats_are_refused(repeats, warmup):
    with pytest.raises(ValueError, match="expected repeats >= 1"):
        timed(lambda: None, repeats=repeats, warmup=warmup)


def test_median_and_spread():
    timing = Timing((3.0, 1.0, 2.0))
    assert (timing.low, timing.median, timing.high) == (1.0, 2.0, 3.0)


def test_pairs_alternate_and_cancel_a_load_that_grows():
    clock, order = FakeClock(), []

    def call(name, seconds):
        def run():
            order.append(name)
            clock.work(seconds * (1 + (len(order) - 1) // 2))()  # each pair is slower than the last

        return run

    pair = paired(call("a", 1.0), call("b", 3.0), pairs=4, warmup=0, timer=HostTimer(clock))
    assert order == ["a", "b"] * 4
    assert pair.ratio == (3.0, 3.0, 3.0)
    assert pair.ours.high == 4.0


@given(st.lists(st.floats(0.01, 0.9), min_size=1, max_size=20), st.floats(1e-8, 0.5))
def test_interpolated_iterations_lie_in_the_step_that_meets_the_tolerance(factors, rtol):
    residuals = np.cumprod([1.0, *factors])
    found = iterations_to(residuals, rtol)
    if residuals[-1] > rtol:
        assert found == math.inf
    else:
        whole = int(np.argmax(residuals <= rtol))
        assert whole - 1 - 1e-9 <= found <= whole


def test_interpolation_is_exact_on_a_straight_line():
    assert iterations_to(0.1 ** np.arange(6.0), 10**-3.5) == pytest.approx(3.5)


def test_interpolation_of_an_exact_solution_and_of_a_start_that_is_already_there():
    assert iterations_to([1.0, 0.0], 1e-6) == 1.0
    assert iterations_to([0.0], 1e-6) == 0.0


def test_the_true_residual_is_in_double_precision_and_shape_free():
    A = np.diag([1.0, 2.0])
    x = np.array([1.0, 1.0], dtype=np.float32)
    assert true_relative_residual(A, x, np.array([[1.0], [2.0]])) == 0.0
    assert true_relative_residual(A, x, np.zeros(2)) == pytest.approx(math.sqrt(5))


def noisy_pair(seed, pairs, ratio=1.0):
    """Times that a machine with noise of 4 % and a slow spell would show."""
    noise = np.random.default_rng(seed).lognormal(0, 0.04, (2, pairs))
    load = 1 + (np.arange(pairs) % 7 == 3)  # hits both members of a pair
    return Pair(Timing(tuple(noise[0] * load)), Timing(tuple(ratio * noise[1] * load)))


@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_the_interval_of_a_paired_ratio_holds_the_truth_and_is_narrow_after_20_pairs(ratio):
    """95 % intervals: of 40 samples, fewer than 32 hits would have probability below 1e-3."""
    found = [noisy_pair(seed, 20, ratio).interval() for seed in range(10007, 10047)]
    hits = sum(low <= ratio <= high for low, high in found)
    widths = [(high - low) / 2 / ratio for low, high in found]
    assert hits >= 32
    assert np.median(widths) < 0.05


def test_a_method_against_itself_is_one_on_an_ideal_clock():
    clock = FakeClock()
    pair = paired(clock.work(0.3), clock.work(0.3), pairs=20, timer=HostTimer(clock))
    assert pair.interval() == pytest.approx((1.0, 1.0))


def test_the_same_pairs_give_the_same_interval():
    assert noisy_pair(10007, 20).interval() == noisy_pair(10007, 20).interval()


def test_more_confidence_is_a_wider_interval():
    pair = noisy_pair(10007, 20)
    (low, high), (lower, higher) = pair.interval(0.5), pair.interval(0.99)
    assert lower < low < high < higher
