"""The largest eigenpairs and the trace, against dense matrices; over a data loader as over the joined batch."""

import numpy as np
import pytest
import torch
from krylearn.optim import empirical_fisher, estimate_trace, ggn, hessian, slq, top_eigenpairs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def network(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3)).to(dtype)
        x, y = torch.randn(23, 5).to(dtype), torch.randint(3, (23,))
    return model, x, y


def dense(A):
    return torch.linalg.eigvalsh(A.matrix().double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_eigenpairs_are_those_of_the_dense_matrix(k, which, dtype):
    model, x, y = network(dtype)
    H = hessian(model, nn.functional.cross_entropy, (x, y))
    truth = dense(H)
    order = {"largest": truth.flip(0), "smallest": truth, "magnitude": truth[truth.abs().argsort(descending=True)]}
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    found = top_eigenpairs(H, k, which=which, tolerance=tolerance, rng=1)
    top = float(truth.abs().max())
    assert found.converged
    assert torch.allclose(found.values, order[which][:k], atol=10 * tolerance * top, rtol=0)
    left = H(found.vectors).double() - found.values[:, None] * found.vectors.double()
    assert bool((torch.linalg.vector_norm(left, dim=1) <= 10 * tolerance * top).all())
    gram = (found.vectors @ found.vectors.T).double()
    assert torch.allclose(gram, torch.eye(k, dtype=torch.float64), atol=1e-10 if dtype == torch.float64 else 1e-4)


def test_multiple_eigenvalues_are_found_as_often_as_they_are():
    A = torch.diag(torch.tensor([3.0, 3.0, 3.0] + 20 * [1.0], dtype=torch.float64))
    found = top_eigenpairs(A, 4, tolerance=1e-10, rng=2)
    assert found.values.tolist() == pytest.approx([3, 3, 3, 1])
    assert top_eigenpairs(torch.zeros(5, 5, dtype=torch.float64), 2, rng=1).values.tolist() == [0.0, 0.0]
    assert top_eigenpairs(torch.eye(3, dtype=torch.float64), 3, rng=1).values.tolist() == pytest.approx([1, 1, 1])


def test_what_is_not_converged_says_so_and_residuals_bound_the_distance_to_the_spectrum():
    A = torch.diag(torch.linspace(0, 1, 500, dtype=torch.float64))
    found = top_eigenpairs(A, 3, tolerance=1e-12, products=25, rng=4)
    assert not found.converged
    assert found.products == 25
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert float((A.diagonal() - value).abs().min()) <= float(residual) * (1 + 1e-9)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 99}, {"which": "top"}, {"tolerance": 0.0}, {"products": 0}])
def test_wrong_requests_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        top_eigenpairs(torch.eye(3), **wrong)


@pytest.mark.parametrize("products", [30, 60, 400])
def test_hutchpp_has_the_trace_within_its_error(products):
    model, x, y = network()
    G = ggn(model, nn.functional.cross_entropy, (x, y))
    truth = float(dense(G).sum())
    values = [estimate_trace(G, products=products, rng=seed) for seed in range(10)]
    distances = [abs(each.value - truth) for each in values]
    assert max(distances) <= max(5 * max(each.error for each in values), 1e-9 * truth)
    if products == 400:  # a third is more than n = 111: nothing is left to chance
        assert max(distances) < 1e-9 * truth


def test_hutchpp_beats_plain_random_vectors_where_few_eigenvalues_hold_the_trace():
    diagonal = torch.cat([1000 / torch.arange(1.0, 11.0), torch.full((490,), 0.01)]).double()
    A, truth = torch.diag(diagonal), float(diagonal.sum())
    ours, plain = [], []
    for seed in range(12):
        ours.append(estimate_trace(A, products=45, rng=seed).value - truth)
        x = torch.randn(45, 500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        plain.append(float((x * (x @ A)).sum() / 45) - truth)
    assert np.std(ours) < 0.02 * np.std(plain)
    with pytest.raises(ValueError, match="at least 6"):
        estimate_trace(A, products=5)


@pytest.mark.parametrize("make", [hessian, ggn, empirical_fisher])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_over_a_data_loader_it_is_the_operator_of_all_data(make, reduction, shuffle):
    model, x, y = network()

    def loss(out, target):
        return nn.functional.cross_entropy(out, target, reduction=reduction)

    whole = make(model, loss, (x, y), reduction=reduction)
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=shuffle)  # the last batch has three
    parts = make(model, loss, loader, reduction=reduction)
    assert torch.allclose(parts.matrix(), whole.matrix(), atol=1e-12)
    assert torch.allclose(parts.gradient(), whole.gradient(), atol=1e-12)
    assert parts.samples == whole.samples == 23
    assert slq(parts, steps=10, probes=1, rng=1).max == pytest.approx(slq(whole, steps=10, probes=1, rng=1).max)
    assert top_eigenpairs(parts, 2, rng=1).values.tolist() == pytest.approx(
        top_eigenpairs(whole, 2, rng=1).values.tolist()
    )


def test_data_loaders_that_cannot_be_split_or_are_empty_are_refused():
    model, x, y = network()
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    with pytest.raises(ValueError, match="one of them"):
        hessian(model, nn.functional.cross_entropy, loader, micro_batch=2)
    with pytest.raises(ValueError, match="no batches"):
        hessian(
            model, nn.functional.cross_entropy, DataLoader(TensorDataset(x[:3], y[:3]), batch_size=5, drop_last=True)
        )


def test_the_tuners_products_refuse_what_torch_would_take_as_constant():
    from krylearn.optim.tuner.loss import LossSource

    class Once(torch.autograd.Function):
        """A square whose backward is once differentiable."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return 2 * ctx.saved_tensors[0] * g

    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    source = LossSource(lambda batch: (Once.apply(w) * w).sum(), None)
    direction = torch.tensor([1.0, 0.5], dtype=torch.float64)
    assert torch.allclose(source.products([w])([direction])[0], 6 * w.detach() * direction, rtol=1e-6)
