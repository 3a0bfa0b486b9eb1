"""Training of step sizes: resumes exactly, learns, takes matrices of the user's own."""

import json

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid
from krylearn.solvers.multigrid.step_sizes import load_steps
from krylearn.solvers.training import steps as training
from krylearn.solvers.training.steps import train_steps

SMALL = {"families": ["blocks", "layers_100"], "shapes": [((20, 18), 1)], "progress": False}


def tensors(path):
    return load_steps(path).state_dict()


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path, monkeypatch):
    whole = train_steps(2, steps=6, output=tmp_path / "whole", **SMALL)
    monkeypatch.setattr(training, "EVERY", 3)
    stopped = training.Run.save

    def save_and_stop(run, path):
        stopped(run, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Run, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_steps(2, steps=6, output=tmp_path / "parts", **SMALL)
    monkeypatch.setattr(training.Run, "save", stopped)
    with pytest.raises(ValueError, match="steps=7"):
        train_steps(2, steps=7, output=tmp_path / "parts", resume=True, **SMALL)
    parts = train_steps(2, steps=6, output=tmp_path / "parts", resume=True, **SMALL)
    assert all(torch.equal(v, tensors(parts)[k]) for k, v in tensors(whole).items())


def test_a_users_matrices_are_trained_on(tmp_path):
    own = {"mine": Poisson.from_coefficients(np.exp(np.random.default_rng(31_481).standard_normal((30, 31))))}
    path = train_steps(2, matrices=own, steps=20, output=tmp_path, progress=False)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["matrices"] == ["mine"]
    assert card["families"] == []
    assert card["steps_over_those_of_the_rule"]["mine"] < 1
    assert NeuralMultigrid(own["mine"], path).info.rule == "trained"


def test_refusals_name_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="families"):
        train_steps(2, families=["nonsense"], output=tmp_path)
    with pytest.raises(ValueError, match="levels to learn on"):
        train_steps(2, families=["blocks"], shapes=[((5, 5), 1)], output=tmp_path / "a")
