"""An operator is the Hessian of the loss that was given, or it is refused: symmetry, micro-batches, odd batches."""

import warnings
from collections import UserDict

import pytest
import torch
from krylearn.optim import CurvatureWarning, batch_sharpness, hessian, sharpness
from krylearn.optim.tuner.loss import LossSource, dot
from krylearn.optim.tuner.spectral import find_spectrum, find_top_curvature
from torch import nn

NORMS = {"old": torch.nn.utils.weight_norm, "parametrization": torch.nn.utils.parametrizations.weight_norm}
quiet = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


def normed(name, dtype=torch.float64):
    torch.manual_seed(3)
    model = nn.Sequential(NORMS[name](nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 1)).to(dtype)
    x = torch.randn(20, 4, dtype=dtype)
    return model, (x, x.sum(1, keepdim=True).sin())


@quiet
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("method", ["auto", "double-backward"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_second_derivatives_that_are_not_symmetric_are_not_used(name, method, dtype):
    model, batch = normed(name, dtype)
    with pytest.warns(CurvatureWarning, match="not symmetric"):
        H = hessian(model, nn.functional.mse_loss, batch, method=method)
    assert H.method == "finite-differences"
    M = H.matrix().double()
    limit = 1e-6 if dtype == torch.float64 else 0.02
    assert float((M - M.T).abs().max()) < limit * float(M.abs().max())
    edge = sharpness(H, steps=30, rng=1)
    assert edge.low < edge.high
    top = float(torch.linalg.eigvalsh((M + M.T) / 2).max())
    assert edge.low - limit * top <= top <= edge.high + limit * top


@quiet
@pytest.mark.parametrize("name", NORMS)
def test_the_tuners_products_notice_it_too(name):
    model, (x, y) = normed(name)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    source = LossSource(lambda b: nn.functional.mse_loss(model(b[0]), b[1]), (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        M = hessian(model, nn.functional.mse_loss, (x, y)).matrix()
    wanted = float(torch.linalg.eigvalsh((M + M.T) / 2).abs().max())
    assert find_top_curvature(source, sgd, None, 0, products=200)[0] == pytest.approx(wanted, rel=1e-3)
    assert source.by_differences
    again = LossSource(source.loss_fn, source.batch)
    assert float(find_spectrum(again, sgd, 25, 0).values[-1]) == pytest.approx(wanted, rel=1e-3)
    v = [torch.ones_like(p) for p in model.parameters()]
    assert dot(again.products(list(model.parameters()))(v), v) == pytest.approx(float(M.sum()), rel=1e-4)


LOSSES = {
    "ignored targets": lambda z, y: nn.functional.cross_entropy(z, torch.where(torch.arange(len(y)) % 3 == 0, -100, y)),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1])),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "mean of squares over the batch's own spread": lambda z, y: z.square().mean() / (1 + z.var()),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("micro", [5, 7])
def test_micro_batches_that_are_not_the_whole_are_refused(name, micro):
    torch.manual_seed(1)
    model, x = nn.Linear(4, 3), torch.randn(20, 4)
    y = torch.randint(3, (20,))
    hessian(model, LOSSES[name], (x, y))
    with pytest.raises(ValueError, match="add up to"):
        hessian(model, LOSSES[name], (x, y), micro_batch=micro)
    if name == "sum":
        with pytest.raises(ValueError, match="reduction='sum'"):
            hessian(model, LOSSES[name], (x, y), micro_batch=micro)
        whole = hessian(model, LOSSES[name], (x, y), reduction="sum").matrix()
        parts = hessian(model, LOSSES[name], (x, y), reduction="sum", micro_batch=micro).matrix()
        assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-4)


def test_batches_of_their_own_need_not_add_up():
    torch.manual_seed(1)
    model, x, y = nn.Linear(4, 3), torch.randn(20, 4), torch.randint(3, (20,))
    assert batch_sharpness(model, LOSSES["class weights"], (x, y), batch_size=5).value > 0


def test_what_is_not_split_may_have_any_first_size():
    torch.manual_seed(2)
    ctc = nn.CTCLoss()
    model, frames = nn.Sequential(nn.Linear(3, 5), nn.LogSoftmax(-1)), torch.randn(12, 4, 3)  # time first

    def loss(out, targets):
        joined, lengths = targets
        return ctc(out, joined, torch.full((4,), 12), lengths)

    lengths = torch.tensor([2, 3, 1, 2])
    H = hessian(model, loss, (frames, (torch.randint(1, 5, (8,)), lengths)), method="finite-differences")
    assert bool(torch.isfinite(H @ torch.ones(H.shape[0])).all())


class Encoding(UserDict):
    """As tokenizers return them."""


class Output(dict):
    """As models of a well-known hub return them."""


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.head = nn.Linear(3, 2)

    def forward(self, x, labels):
        return Output(loss=nn.functional.cross_entropy(self.head(x), labels), logits=self.head(x))


def test_encodings_go_in_and_outputs_with_a_loss_come_out():
    x, y = torch.randn(6, 3), torch.randint(2, (6,))
    model = Model()
    H = hessian(model, None, Encoding(x=x, labels=y))
    assert torch.allclose(H.matrix(), hessian(model.head, nn.functional.cross_entropy, (x, y)).matrix(), atol=1e-6)
    parts = hessian(model, None, Encoding(x=x, labels=y), micro_batch=2)
    assert torch.allclose(H.matrix(), parts.matrix(), atol=1e-6)


def test_a_zero_operator_has_no_interval_of_zero_width():
    edge = sharpness(torch.zeros(5, 5, dtype=torch.float64), steps=3, rng=1)
    assert edge.low < edge.high
    assert edge.high < 1e-300
