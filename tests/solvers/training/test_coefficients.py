"""Training on tiny grids: exact resumption, Ctrl-C, cards, streams that never meet, losses that stay finite."""

import itertools
import json
import logging
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from krylearn.pde import FAMILIES, Poisson, scene
from krylearn.solvers import NeuralMultigrid
from krylearn.solvers.multigrid import weight_files as storage
from krylearn.solvers.multigrid.network import CoefficientNetwork
from krylearn.solvers.training import data as training_data
from krylearn.solvers.training.coefficients import cost, decades, train
from krylearn.solvers.training.data import VALIDATION, Systems, builders
from multigrid_cases import random_network

TINY = {"dimension": 2, "families": ["blocks", "obstacles"], "sizes": (16,), "steps": 6, "hidden": 4, "progress": False}


def run(folder, **options):
    return train(**(TINY | {"output": folder} | options))


def weights_of(path):
    return storage.load_weights(path).state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    return run(folder)


@pytest.fixture
def stop_at(monkeypatch):
    """Make the batch of one step raise."""
    whole = Systems.batch

    def install(step, error):
        def batch(self, k):
            if k == step:
                raise error
            return whole(self, k)

        monkeypatch.setattr(Systems, "batch", batch)

    yield install
    monkeypatch.undo()


# --- exactness --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_whatever_the_global_state(finished, tmp_path):
    torch.manual_seed(36_007)  # what a user may have done; ours must not care
    assert same(weights_of(run(tmp_path)), weights_of(finished))
    assert not same(weights_of(run(tmp_path / "other", seed=36_011)), weights_of(finished))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no power")], ids=["ctrl_c", "crash"])
def test_an_interrupted_run_resumes_to_the_same_digits(finished, tmp_path, monkeypatch, stop_at, error):
    stop_at(3, error)
    with pytest.raises(type(error)):
        run(tmp_path)
    monkeypatch.undo()
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert not list(tmp_path.glob("*.safetensors"))
    path = run(tmp_path, resume=True)
    assert same(weights_of(path), weights_of(finished))
    assert (tmp_path / "metrics.0.csv").exists()  # the curves of the first part


KILLED = """
import os, signal, sys
from krylearn.solvers.training import train
from krylearn.solvers.training.data import Systems
whole = Systems.batch
def batch(self, step):
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, step)
Systems.batch = batch
train(**eval(sys.argv[1]))
"""


def test_a_killed_run_resumes_to_the_same_digits(finished, tmp_path):
    options = repr(TINY | {"output": str(tmp_path)})
    killed = subprocess.run([sys.executable, "-c", KILLED, options], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert same(weights_of(run(tmp_path, resume=True)), weights_of(finished))


def test_ctrl_c_says_where_to_go_on_and_leaves_the_handler_alone(tmp_path, stop_at):
    before = signal.getsignal(signal.SIGINT)
    stop_at(3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match=r"last\.ckpt: continue with resume=True"):
        run(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    stop_at(0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="no checkpoint yet"):
        run(tmp_path / "other")


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(finished):
    before = {path: path.read_bytes() for path in finished.parent.iterdir()}
    with pytest.raises(FileExistsError, match=r"holds last\.ckpt and 2d-network\.safetensors of an earlier run"):
        run(finished.parent)
    assert {path: path.read_bytes() for path in finished.parent.iterdir()} == before


def test_a_run_that_was_killed_before_it_wrote_its_weights_writes_them(finished, tmp_path):
    shutil.copy(finished.parent / "last.ckpt", tmp_path)
    assert same(weights_of(run(tmp_path, resume=True)), weights_of(finished))


# --- what it leaves behind --------------------------------------------------------------------------------------------


def test_the_card_says_what_was_done(finished):
    card = json.loads(finished.with_suffix(".json").read_text())
    assert finished.name == "2d-network.safetensors"
    assert card["families"] == ["blocks", "obstacles"]
    assert (card["dimension"], card["steps"], card["sizes"], card["seed"]) == (2, 6, [16], 20261)
    assert set(card["final_steps_per_decade"]) == {"blocks", "obstacles"}
    assert all(0 < v < 100 for v in card["final_steps_per_decade"].values())
    assert card["parameters"] == sum(p.numel() for p in storage.load_weights(finished).parameters())
    assert card["hours"] >= 0
    assert "cpu" in card["hardware"]
    assert card["licence"] == "BSD-3-Clause"
    assert (finished.parent / "metrics.csv").read_text().startswith("epoch,loss")


def test_the_result_is_a_preconditioner(finished):
    A = scene("blocks", (16, 18), 36_013)
    assert (
        float(
            A.to_grid(np.ones(A.shape[0])).flatten() @ (NeuralMultigrid(A, finished) @ torch.ones(A.shape[0]).double())
        )
        > 0
    )


def test_constants_are_six_numbers(tmp_path):
    path = run(tmp_path, architecture="constants", families=["neumann"], steps=2)
    assert path.name == "2d-constants.safetensors"
    assert json.loads(path.with_suffix(".json").read_text())["parameters"] == 6
    assert storage.load_weights(path).hidden == 0


def test_training_in_3d_and_fine_tuning(tmp_path):
    first = run(tmp_path / "a", dimension=3, sizes=(8,), families=["mazes"], steps=2)
    assert first.name == "3d-network.safetensors"
    second = run(tmp_path / "b", dimension=3, sizes=(8,), families=["mazes"], steps=1, start=first, lr=1e-9)
    for name, value in weights_of(second).items():
        torch.testing.assert_close(value, weights_of(first)[name], rtol=0, atol=1e-6)
    assert json.loads(second.with_suffix(".json").read_text())["started_from"] == "3d-network.safetensors"


def test_training_lowers_the_loss_on_systems_it_never_saw(tmp_path):
    path = run(tmp_path, families=["lognormal"], architecture="constants", steps=25, lr=0.1)
    systems = Systems(builders(["lognormal"]), 2, (24,), 1)
    op, b = systems.assemble("lognormal", (24, 24), [VALIDATION + k for k in range(4)], np.random.default_rng(36_017))
    with torch.no_grad():
        before, after = (
            float(cost(decades(op, net, b, 6), 6)) for net in (CoefficientNetwork(0), storage.load_weights(path))
        )
    assert after < before - 0.02


def test_own_families_are_trained_on(tmp_path):
    seen = []

    def strips(shape, seed):
        seen.append(seed)
        kappa = np.ones(shape)
        kappa[:: 2 + seed % 3] = 100
        return Poisson.from_coefficients(kappa)

    path = run(tmp_path, families={"strips": strips}, steps=3)
    assert json.loads(path.with_suffix(".json").read_text())["families"] == ["strips"]
    training = {seed for seed in seen if seed < VALIDATION}
    assert training
    assert max(training) < 64
    assert min(seed for seed in seen if seed not in training) >= VALIDATION  # held out


# --- silence ----------------------------------------------------------------------------------------------------------


def test_nothing_is_printed_or_warned_that_a_user_cannot_use(tmp_path, capfd):
    level = logging.getLogger("lightning.pytorch").level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path)
        run(tmp_path, resume=True)
    said = capfd.readouterr()
    assert said.out == said.err == ""
    assert logging.getLogger("lightning.pytorch").level == level


def test_the_progress_bar_shows_the_score(tmp_path, capfd):
    run(tmp_path, steps=2, progress=True)
    assert "steps_per_decade" in capfd.readouterr().out


# --- what is refused --------------------------------------------------------------------------------------------------

BAD = {
    "dimension": ({"dimension": 4}, r"got dimension=4, .*expected 2 or 3"),
    "architecture": ({"architecture": "transformer"}, "architecture='transformer'.*expected"),
    "steps": ({"steps": 0}, "steps=0.*expected"),
    "cg_steps": ({"cg_steps": 1}, "cg_steps >= 2"),
    "family": ({"families": ["mazes", "mozes"]}, r"got families \['mozes'\]; expected names out of open_box, "),
    "no_family": ({"families": []}, r"got families \[\]; expected names"),
    "sizes": ({"sizes": (32, 12)}, r"got sizes=\(32, 12\); expected 14 or more cells per axis in 2D"),
    "resume": ({"resume": True}, r"got resume=True, but there is no .*last\.ckpt; expected the checkpoint"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, case):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "new", **options)
    assert not list(tmp_path.rglob("*.*"))


def test_resuming_with_other_settings_is_refused(finished):
    with pytest.raises(ValueError, match=r"got steps=9, seed=3; expected steps=6, seed=20261 as in the checkpoint"):
        run(finished.parent, resume=True, steps=9, seed=3)


def test_a_missing_start_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a \.safetensors file"):
        run(tmp_path, start=tmp_path / "nothing.safetensors")


def test_without_lightning_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r'pip install "krylearn\[train\]"'):
        run(tmp_path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_is_not_unpickled(tmp_path):
    torch.save({"state_dict": Bomb(tmp_path / "exploded"), "global_step": 1}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        run(tmp_path, resume=True)
    assert not (tmp_path / "exploded").exists()


# --- batches ----------------------------------------------------------------------------------------------------------


def a_stream(seed=36_037, names=("blocks", "mazes", "neumann")):
    return Systems(builders(names), 2, (16, 20), seed, pool=5, cells=2 * 400)


def test_a_batch_is_a_function_of_seed_and_step():
    forwards = [a_stream().batch(k) for k in range(6)]
    backwards = [a_stream().batch(k) for k in reversed(range(6))][::-1]
    for (name, op, b), (other_name, other_op, other_b) in zip(forwards, backwards, strict=True):
        assert name == other_name
        assert torch.equal(b, other_b)
        assert torch.equal(op.diag, other_op.diag)
    assert not torch.equal(forwards[0][2], forwards[3][2])
    assert any(
        b.shape != c.shape or not torch.equal(b, c)
        for (_, _, b), (_, _, c) in zip(forwards, (a_stream(36_061).batch(k) for k in range(6)), strict=True)
    )


def test_every_sweep_visits_every_family_once():
    stream = a_stream()
    names = [stream.batch(k)[0] for k in range(9)]
    for start in (0, 3, 6):
        assert sorted(names[start : start + 3]) == ["blocks", "mazes", "neumann"]


def test_batches_are_stacks_of_compatible_systems():
    for k in range(12):
        _, op, b = a_stream().batch(k)
        assert op.shift.dim() == b.dim() == 4
        assert b.shape == op.shift.shape
        assert 1 <= len(b) <= 8
        assert not b[op.mask == 0].any()
        singular = (sum(op.ground) + op.shift).sum((-1, -2, -3)) == 0
        totals = b.double().sum((-1, -2, -3))
        assert bool((totals[singular].abs() <= 1e-3 * b.abs().sum((-1, -2, -3))[singular]).all())


def test_training_and_validation_use_the_train_stream_and_never_the_same_seed(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        training_data,
        "scene",
        lambda name, shape, seed, stream: asked.append((seed, stream)) or scene(name, shape, seed, stream),
    )
    run(tmp_path, steps=4)
    assert {stream for _, stream in asked} == {"train"}
    seeds = {seed for seed, _ in asked}
    assert any(seed >= VALIDATION for seed in seeds)
    assert all(seed < 64 or seed >= VALIDATION for seed in seeds)


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_the_cost_is_the_logarithm_of_steps_per_decade():
    steady = torch.tensor([[2.0, 2.0], [4.0, 4.0]])  # half a decade per step, after 4 and after 8 steps
    assert float(cost(steady, 8)) == pytest.approx(np.log(2), abs=1e-4)
    assert float(cost(2 * steady, 8)) == pytest.approx(0, abs=1e-4)
    assert torch.isfinite(cost(-8 * steady, 8))


def test_the_decades_are_those_of_cg():
    systems = Systems(builders(["blocks"]), 2, (16,), 1)
    op, b = systems.assemble("blocks", (16, 16), [3], np.random.default_rng(36_067))
    network = CoefficientNetwork(0)
    with torch.no_grad():
        half, whole = decades(op, network, b, 8)
        (again,) = decades(op, network, b, 4)[-1:]
    torch.testing.assert_close(half, again)
    assert float(whole) > float(half) > 0


@pytest.mark.parametrize("dimension", [2, 3])
def test_losses_and_gradients_are_finite_on_every_family_with_any_weights(dimension):
    sizes = {2: (14, 20, 25), 3: (8, 10)}[dimension]
    systems = Systems(builders(None), dimension, sizes, 36_073, pool=16, cells=2500)
    for seed, scale in itertools.product((36_083,), (0.0, 1.5)):
        network = random_network(seed, scale).train()
        for step in range(2 * len(FAMILIES)):
            name, op, b = systems.batch(step)
            loss = cost(decades(op, network, b, 7), 7)
            loss.backward()
            assert bool(torch.isfinite(loss)), (name, step)
            for p in network.parameters():
                assert p.grad is None or bool(torch.isfinite(p.grad).all()), (name, step)
