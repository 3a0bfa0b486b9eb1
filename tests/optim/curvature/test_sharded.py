"""FSDP2: operators, spectra and their use in training on several ranks are those of one process."""

import copy
import os
import tempfile

import numpy as np
import pytest
import torch
from gloo_ranks import run_gloo_ranks
from krylearn.optim import ggn, hessian, preconditioned, slq
from torch import nn

SAMPLES = 12


def network():
    """Three layers in double precision; 5 and 3 units, so that shards are uneven on 2 and 4 ranks."""
    torch.manual_seed(20149)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def data():
    g = torch.Generator().manual_seed(20161)
    return (
        torch.randn(SAMPLES, 4, generator=g, dtype=torch.float64),
        torch.randint(0, 2, (SAMPLES,), generator=g),
    )


def facts(model, optimizer, batch, group=None):
    """What is compared: operators, spectra, and the same with Adam's preconditioner after three steps."""
    loss = nn.functional.cross_entropy
    made = {}
    for kind, make in (("hessian", hessian), ("ggn", ggn)):
        A = make(model, loss, batch, group=group)
        spectrum = slq(A, steps=20, probes=2, rng=20173)
        grid = np.linspace(-0.5, 1.5, 41)
        made[kind] = (A.matrix(), A.gradient(), spectrum.max, spectrum.density(grid, width=0.05).values)
    H = hessian(model, loss, batch, group=group, method="finite-differences")
    made["differences"] = H @ torch.ones(H.shape[0], dtype=torch.float64)
    made["preconditioned"] = preconditioned(hessian(model, loss, batch, group=group), optimizer).matrix()
    return made


def train(model, optimizer, x, y, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def _rank(rank, ranks, folder):
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.init_device_mesh("cpu", (ranks,))
    model, (x, y) = network(), data()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-3)
    mine = slice(rank * SAMPLES // ranks, (rank + 1) * SAMPLES // ranks)
    train(model, optimizer, x[mine], y[mine])
    group = torch.distributed.group.WORLD
    before = [p.full_tensor().clone() for p in model.parameters()]
    found = facts(model, optimizer, (x[mine], y[mine]), group)
    after = [p.full_tensor() for p in model.parameters()]
    found["kept"] = all(map(torch.equal, before, after))
    found["shards"] = sum(p.to_local().numel() for p in model.parameters())
    # FSDP's hooks are back: training goes on as before
    train(model, optimizer, x[mine], y[mine])
    found["weights"] = [p.full_tensor().detach().clone() for p in model.parameters()]
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def whole():
    model, (x, y) = network(), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-3)
    train(model, optimizer, x, y)
    found = facts(model, optimizer, (x, y))
    later = copy.deepcopy(model)
    again = torch.optim.Adam(later.parameters(), lr=0.01, eps=1e-3)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(later, again, x, y)
    found["weights"] = [p.detach() for p in later.parameters()]
    return found


@pytest.mark.parametrize("ranks", [2, 4])
def test_sharded_operators_are_those_of_one_process(ranks, whole):
    with tempfile.TemporaryDirectory() as folder:
        run_gloo_ranks(_rank, ranks, folder)
        found = [torch.load(os.path.join(folder, f"{r}.pt"), weights_only=False) for r in range(ranks)]
    size = whole["hessian"][0].shape[0]
    assert sum(one["shards"] for one in found) == size  # nothing was made whole on the way
    for one in found:
        for kind in ("hessian", "ggn"):
            matrix, gradient, top, density = one[kind]
            torch.testing.assert_close(matrix, whole[kind][0], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(gradient, whole[kind][1], rtol=1e-9, atol=1e-12)
            assert top == pytest.approx(whole[kind][2], rel=1e-9)
            np.testing.assert_allclose(density, whole[kind][3], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(one["differences"], whole["differences"], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(one["preconditioned"], whole["preconditioned"], rtol=1e-7, atol=1e-10)
        assert one["kept"]
        for ours, theirs in zip(one["weights"], whole["weights"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
