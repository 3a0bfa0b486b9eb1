"""Starting guesses: what they must be, and that what is measured is what they save."""

import numpy as np
import torch
from krylearn.bench.measure.record import read
from krylearn.bench.studies.solvers.warm_starts import SEQUENCES, TOLERANCES, best_combination, guesses, run_warm_starts
from krylearn.pde import scene


def test_the_best_combination_has_the_least_energy_error_of_all():
    A = scene("obstacles", (5, 5, 5), 0)
    x, *directions = torch.from_numpy(
        np.random.default_rng(90301).standard_normal((4, 125)) * A.unknown.numpy().ravel()
    )
    best = best_combination(A, A @ x, directions)

    def error(y):
        return float((x - y) @ (A @ (x - y)))

    for change in np.random.default_rng(90303).standard_normal((20, 3)) * 0.1:
        assert error(best) <= error(best + sum(c * d for c, d in zip(change, directions, strict=True)))


def test_a_repeated_system_is_guessed_exactly():
    A = scene("obstacles", (5, 5, 5), 0)
    b = A @ torch.ones(125, dtype=torch.float64)
    p = A.from_grid(A.to_grid(torch.ones(125, dtype=torch.float64)), b)
    for name, (guess, _) in guesses().items():
        x0 = guess(A, b, [p] * 5, [p] * 6)
        if name != "zero":
            assert float((b - A @ x0).norm()) <= 1e-9 * float(b.norm()), name


def test_a_run_has_a_line_for_every_guess_and_tolerance(tmp_path, capsys):
    run_warm_starts(shape=(6, 6, 8), steps=12, output=tmp_path / "w.jsonl")
    lines = read(tmp_path / "w.jsonl")
    assert len(lines) == len(SEQUENCES) * len(TOLERANCES) * len(guesses())
    assert all(line["iterations"] > 0 for line in lines if line["method"] == "zero")
    assert all(line["more"]["start"] == 1 for line in lines if line["method"] == "zero")
    assert all(line["more"]["start"] < 1 for line in lines if line["method"] == "best of 5")
