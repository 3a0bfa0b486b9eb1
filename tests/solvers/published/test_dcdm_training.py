"""Training of the published methods: the loss, the order of the data, resuming, and that it learns."""

import csv
import json

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson, right_hand_side, scene
from krylearn.solvers import DCDM, dcdm
from krylearn.solvers.published.dcdm_network import DCDMNetwork
from krylearn.solvers.published.dcdm_training import line_search_loss, propose, train_dcdm
from krylearn.solvers.published.loop import RitzStream
from krylearn.solvers.published.ritz import ritz_basis
from safetensors.torch import load_file

TINY = {"grid": 8, "ritz_vectors": 16, "batch": 3, "right_hand_sides": 10, "progress": False}


@pytest.fixture(scope="module")
def box():
    return Poisson.from_cells(np.ones((6, 6, 6)), dtype=np.float64)


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_loss_is_the_squared_residual_after_an_exact_line_search(box):
    rng = torch.Generator().manual_seed(70_201)
    b, g = (torch.randn(4, 6, 6, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    b = box.nullspace.project(b)
    A = box.matrix().toarray()
    expected = []
    for b_k, g_k in zip(b.flatten(1).numpy(), g.flatten(1).numpy(), strict=True):
        s = (g_k @ b_k) / (g_k @ A @ g_k)
        expected.append(np.sum((b_k - s * A @ g_k) ** 2))
    assert float(line_search_loss(box, b, g)) == pytest.approx(np.mean(expected), rel=1e-12)


def test_scale_and_sign_of_the_direction_do_not_matter(box):
    b, g = torch.rand(3, 6, 6, 6, dtype=torch.float64), torch.rand(3, 6, 6, 6, dtype=torch.float64)
    loss = line_search_loss(box, b, g)
    for factor in (-1, 1e-6, 1e6):
        torch.testing.assert_close(line_search_loss(box, b, factor * g), loss)


def test_exact_solution_has_no_loss(box):
    g = box.nullspace.project(torch.rand(2, 6, 6, 6, dtype=torch.float64))
    assert float(line_search_loss(box, box.apply(g), g)) < 1e-25


def test_line_search_minimises_the_energy_not_the_residual(box):
    """So a bad direction may raise the residual: the loss can exceed 1, and does for a needle against a smooth load."""
    b = torch.ones(1, 6, 6, 6, dtype=torch.float64)
    b[..., :3] = -1
    g = torch.zeros_like(b)
    g[0, 0, 0, 0] = -1
    assert float(line_search_loss(box, b / b.norm(), g)) > 0.99


def test_gradient_reaches_every_parameter(box):
    network = DCDMNetwork(generator=torch.Generator().manual_seed(70_207))
    A = box.to(dtype="float32")
    line_search_loss(A, torch.rand(2, 6, 6, 6), propose(network, A, torch.rand(2, 6, 6, 6))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


# --- the data ---------------------------------------------------------------------------------------------------------


def stream_of(operators, **options):
    bases = [ritz_basis(A, 8, seed=k) for k, A in enumerate(operators)]
    return RitzStream(operators, bases, **{"count": 10, "batch": 3, "seed": 9, "chunk": 4} | options)


def test_an_epoch_is_a_permutation_with_a_partial_last_batch(box):
    stream = stream_of([box])
    for epoch in range(2):
        batches = [stream.train(epoch * stream.per_pass + k)[1] for k in range(stream.per_pass)]
        assert [len(b) for b in batches] == [3, 3, 3, 1]
        seen = torch.cat(batches).flatten(1)
        every = stream.bases[0].right_hand_sides(range(10), 9).flatten(1)
        order = (seen @ every.T).argmax(1)
        assert sorted(order.tolist()) == list(range(10))
        assert order.tolist() != list(range(10))
        torch.testing.assert_close(seen, every[order], rtol=1e-4, atol=1e-6)


def test_a_batch_is_a_function_of_the_step(box):
    one, other = stream_of([box]), stream_of([box])
    for step in (7, 0, 5, 7):
        torch.testing.assert_close(one.train(step)[1], other.train(step)[1])
    torch.testing.assert_close(stream_of([box], chunk=100).train(5)[1], one.train(5)[1], rtol=1e-4, atol=1e-6)


def test_operators_take_turns_after_their_passes(box):
    second = scene("neumann", (6, 6, 6), 2)
    stream = stream_of([box, second], passes=2, batch=10)
    assert [stream.train(step)[0] is second for step in range(6)] == [False, False, True, True, False, False]
    assert [stream.validation(k)[0] is second for k in range(3)] == [False, True, False]


def test_validation_is_disjoint_from_training(box):
    stream = stream_of([box], count=40)
    held_out = stream.validation(0)[1].flatten(1)
    trained = torch.cat([stream.train(k)[1] for k in range(stream.per_pass)]).flatten(1)
    assert float((held_out @ trained.T).max()) < 0.999


# --- the run ----------------------------------------------------------------------------------------------------------


def test_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole = train_dcdm(2, steps=8, output=tmp_path / "whole", **TINY)
    import krylearn.solvers.published.loop as loop

    real, calls = loop.RitzStream.train, []

    def interrupted(self, step):
        calls.append(step)
        if step == 5 and len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, step)

    loop.RitzStream.train = interrupted
    try:
        with pytest.raises(KeyboardInterrupt, match=r"last.ckpt"):
            train_dcdm(2, steps=8, output=tmp_path / "parts", **TINY)
        resumed = train_dcdm(2, steps=8, output=tmp_path / "parts", resume=True, **TINY)
    finally:
        loop.RitzStream.train = real
    assert calls[6] == 4  # from the checkpoint
    for name, value in load_file(whole).items():
        assert torch.equal(value, load_file(resumed)[name]), name
    with pytest.raises(ValueError, match="got batch=4; expected batch=3"):
        train_dcdm(2, steps=8, output=tmp_path / "parts", resume=True, **TINY | {"batch": 4})
    with pytest.raises(ValueError, match=r"there is no .*last.ckpt"):
        train_dcdm(2, steps=8, output=tmp_path / "new", resume=True, **TINY)


def test_it_learns_and_says_what_it_did(tmp_path):
    path = train_dcdm(2, grid=16, ritz_vectors=160, steps=250, batch=8, output=tmp_path, progress=False)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["matrices"].startswith("the empty box")
    assert card["low"] == 80 + 8
    assert card["validation_loss"] < 0.3
    with (tmp_path / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    validation = [float(row["validation"]) for row in logged if row["validation"]]
    training = [float(row["loss"]) for row in logged if row["loss"]]
    assert validation[-1] == pytest.approx(card["validation_loss"], abs=1e-5)
    assert validation[-1] not in training
    A = scene("neumann", (16, 16), 5)
    b = right_hand_side(A, "white", 5)
    learned = dcdm(A, b, DCDM(A, path), rtol=1e-4, maxiter=200)[1]
    assert learned == 0
    assert learned.iterations < dcdm(A, b, None, rtol=1e-4)[1].iterations


def test_continues_from_weights(tmp_path):
    first = train_dcdm(2, steps=2, output=tmp_path / "a", **TINY)
    second = train_dcdm(2, steps=1, lr=1e-12, start=first, output=tmp_path / "b", **TINY)
    for name, value in load_file(first).items():
        torch.testing.assert_close(load_file(second)[name], value, rtol=0, atol=1e-9)
    assert json.loads(second.with_suffix(".json").read_text())["started_from"] == first.name


@pytest.mark.parametrize(
    "wrong",
    [{"dimension": 4}, {"grid": 2}, {"ritz_vectors": 1}, {"size": 32}, {"schedule": "cosine"}, {"precision": "double"}],
)
def test_nonsense_is_refused_before_any_work(wrong, tmp_path):
    facts = {"dimension": 2, "output": tmp_path / "none", **TINY} | wrong
    with pytest.raises(ValueError, match="expected"):
        train_dcdm(facts.pop("dimension"), **facts)
    assert not (tmp_path / "none").exists()
