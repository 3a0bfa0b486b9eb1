"""A schedule is a function of samples: stretched by any factor, at any step, it passes through the same lrs."""

import warnings
from fractions import Fraction

import pytest
from krylearn.optim import Change, ScalingWarning, scale_hyperparameters
from krylearn.optim.batch_size.schedules import length, stretch
from torch.optim import lr_scheduler as schedules

from tests.optim.batch_size.test_rescaling import two_groups

WARM, ALL = 8, 48  # every length is a multiple of 4: whole steps at a quarter
LENGTHS = {
    "linear": lambda o: schedules.LinearLR(o, 0.1, total_iters=ALL),
    "linear down": lambda o: schedules.LinearLR(o, 1.0, 0.2, total_iters=ALL),
    "constant": lambda o: schedules.ConstantLR(o, 0.5, total_iters=16),
    "polynomial": lambda o: schedules.PolynomialLR(o, ALL + 4, power=2),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, ALL, eta_min=1e-3),
    "cosine and back": lambda o: schedules.CosineAnnealingLR(o, 16, eta_min=1e-3),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 12, 2, eta_min=1e-3),
    "onecycle": lambda o: schedules.OneCycleLR(o, [0.2, 0.1], total_steps=ALL + 1),
    "three phases": lambda o: schedules.OneCycleLR(o, [0.2, 0.1], total_steps=ALL + 1, three_phase=True),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=8, step_size_down=16),
    "cyclic, falling": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=8, mode="exp_range", gamma=0.97),
    "step": lambda o: schedules.StepLR(o, 12),
    "multi": lambda o: schedules.MultiStepLR(o, [8, 24, 24, 40]),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.97),
    "sequential": lambda o: schedules.SequentialLR(o, three_parts(o), [WARM, 16]),
    "chained": lambda o: schedules.ChainedScheduler([schedules.ExponentialLR(o, 0.97), schedules.StepLR(o, 12)]),
}


def three_parts(o):
    warm, level = schedules.LinearLR(o, 0.1, total_iters=WARM), schedules.ConstantLR(o, 1.0)
    return [warm, level, schedules.CosineAnnealingLR(o, 32)]


class Path:
    """An optimizer and its scheduler, stepped in units of the original step."""

    def __init__(self, name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # SequentialLR steps schedulers at their construction
            self.optimizer = two_groups()
            self.scheduler = LENGTHS[name](self.optimizer)
        self.at, self.seen = Fraction(0), {}
        self.look()

    def look(self):
        self.seen[self.at] = [(float(g["lr"]), float(g["momentum"])) for g in self.optimizer.param_groups]

    def go(self, until, step=Fraction(1)):
        while self.at + step <= until:
            self.optimizer.step()
            self.scheduler.step()
            self.at += step
            self.look()
        return self


@pytest.mark.parametrize("at", [0, 12, 28])
@pytest.mark.parametrize("factor", [Fraction(1, 4), Fraction(2)])
@pytest.mark.parametrize("name", LENGTHS)
def test_a_stretched_schedule_passes_through_the_same_lrs(name, at, factor):
    plain, path = Path(name).go(ALL), Path(name).go(at)
    assert stretch(path.scheduler, float(factor)) == []
    path.go(ALL, 1 / factor)
    shared = sorted(plain.seen.keys() & path.seen.keys())
    assert shared[-1] == ALL
    for position in shared:
        for found, expected in zip(path.seen[position], plain.seen[position], strict=True):
            assert found == pytest.approx(expected, rel=2e-5, abs=1e-7), position


@pytest.mark.parametrize("at", [0, 20])
@pytest.mark.parametrize("name", LENGTHS)
def test_stretching_back_undoes_it_and_states_resume(name, at):
    plain, path = Path(name).go(ALL), Path(name).go(at)
    stretch(path.scheduler, 0.25)
    path.go(at + 16, 4)
    fresh = Path(name)  # a new process: the same construction, then the states
    fresh.scheduler.load_state_dict(path.scheduler.state_dict())
    fresh.optimizer.load_state_dict(path.optimizer.state_dict())
    fresh.at = path.at
    stretch(fresh.scheduler, 4.0)
    fresh.go(ALL)
    for position in sorted(fresh.seen.keys() & plain.seen.keys()):
        if position > at + 16:
            assert fresh.seen[position][0] == pytest.approx(plain.seen[position][0], rel=2e-5, abs=1e-7), position


@pytest.mark.parametrize("factor", [1 / 3, 0.001, 31.0])
@pytest.mark.parametrize("name", LENGTHS)
def test_odd_factors_keep_lrs_within_their_range_also_past_the_end(name, factor):
    plain, path = Path(name).go(ALL), Path(name).go(7)
    stretch(path.scheduler, factor)
    path.go(7 + int(41 * factor) + 8)  # incomplete last batches add steps: OneCycleLR must not raise there
    top = max(lr for groups in plain.seen.values() for lr, _ in groups)
    assert all(0 <= lr <= 1.01 * top for groups in path.seen.values() for lr, _ in groups)


def test_warmup_is_stretched_apart_and_milestones_follow():
    path = Path("sequential")
    stretch(path.scheduler, 0.5, warmup=4.0)  # You et al. keep the number of warm-up steps, times κ in samples
    assert path.scheduler._milestones == [2 * WARM, 2 * WARM + 4]
    assert path.scheduler._schedulers[0].total_iters == 2 * WARM
    assert length(path.scheduler) == 2 * WARM + 4 + 16


def test_what_cannot_be_converted_is_named_and_left_alone():
    optimizer = two_groups()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        parts = [schedules.LambdaLR(optimizer, lambda k: 1.0), schedules.LinearLR(optimizer, total_iters=8)]
        sequential = schedules.SequentialLR(optimizer, parts, [16])
    options = {"rule": lambda _: Change(valid=True), "scheduler": sequential, "interval": "step"}
    with pytest.warns(ScalingWarning, match="LambdaLR counts steps .* 4 times the samples. Build it from LinearLR"):
        scale_hyperparameters(optimizer, old_batch=8, new_batch=32, **options)
    assert (sequential._milestones, parts[1].total_iters) == ([4], 2)

    class Mine(schedules.LinearLR):
        pass

    assert stretch(Mine(two_groups(), total_iters=8), 0.5) == ["Mine"]
    assert stretch(schedules.ReduceLROnPlateau(two_groups()), 0.5) == []
    with pytest.raises(ValueError, match="factor=0"):
        stretch(sequential, 0)


def test_schedulers_that_count_epochs_keep_their_lengths():
    optimizer = two_groups()
    cosine = schedules.CosineAnnealingLR(optimizer, 40)
    options = {"old_batch": 8, "new_batch": 32, "rule": lambda _: Change(valid=True, schedule=2.0), "scheduler": cosine}
    scale_hyperparameters(optimizer, **options)
    assert cosine.T_max == 40
    scale_hyperparameters(optimizer, **options, interval="step")  # AdaScale advances by less than κ per step
    assert cosine.T_max == 20
    with pytest.raises(ValueError, match="interval='batch'"):
        scale_hyperparameters(optimizer, **options, interval="batch")
