"""Training on another device than the CPU: tensors without memory follow every operation, and refuse to mix devices."""

import pytest
import torch
from krylearn.pde import scene
from krylearn.solvers.kernels.reference import Stencil
from krylearn.solvers.multigrid import hierarchy
from krylearn.solvers.multigrid.coarsening import choose_factors
from krylearn.solvers.multigrid.network import CoefficientNetwork
from krylearn.solvers.multigrid.preconditioner import stencil_of
from krylearn.solvers.training.coefficients import cost, decades, to_device

BATCH, STEPS = 2, 4


def batch(device):
    """Two systems of one family and their right-hand sides."""
    ops = [stencil_of(scene("lognormal", (8, 7, 9), seed), 0) for seed in range(BATCH)]
    links = [torch.stack([op.links[d] for op in ops]) for d in range(3)]
    ground = [torch.stack([op.ground[d] for op in ops]) for d in range(3)]
    op = Stencil(links, ground, torch.stack([op.shift for op in ops]), ops[0].periodic)
    return to_device(op, device), torch.ones(BATCH, *ops[0].size).to(device)


def test_a_training_step_stays_on_its_device(monkeypatch):
    op, b = batch(torch.device("cpu"))
    factors = []

    def noted(stencil):
        factors.append(choose_factors(stencil))
        return factors[-1]

    monkeypatch.setattr(hierarchy, "choose_factors", noted)
    hierarchy.build(op, CoefficientNetwork())
    # the host looks at numbers there, which tensors without memory do not have; everything else is followed
    answers, varying = iter(factors), hierarchy.varies(op.links)
    monkeypatch.setattr(hierarchy, "choose_factors", lambda stencil: next(answers))
    monkeypatch.setattr(hierarchy, "varies", lambda links: varying)
    elsewhere = torch.device("meta")
    there, load = to_device(op, elsewhere), b.to(elsewhere)
    network = CoefficientNetwork().to(elsewhere)
    loss = cost(decades(there, network, load, STEPS), STEPS)
    assert loss.device == elsewhere
    loss.backward()
    for p in network.parameters():
        assert p.device == elsewhere
        assert p.grad is not None
    answers = iter(factors)
    with pytest.raises(RuntimeError, match="device"):
        decades(there, CoefficientNetwork(), load, STEPS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; nothing was run on hardware")
def test_a_training_step_gives_the_loss_of_the_cpu():
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(90_411)
        network = CoefficientNetwork().to(device)
        op, b = batch(torch.device(device))
        losses.append(float(cost(decades(op, network, b, STEPS), STEPS)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
