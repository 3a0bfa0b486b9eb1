import os
import tempfile

import numpy as np
import pytest
import torch
from gloo_ranks import run_gloo_ranks
from krylearn.optim import (
    Spectrum,
    empirical_fisher,
    ggn,
    gradient_noise_scale,
    hessian,
    hessian_noise,
    preconditioned,
    slq,
)  # fmt: skip
from krylearn.optim.curvature.methods import measure_methods
from krylearn.optim.curvature.network import FrozenNetwork
from krylearn.optim.curvature.products import METHODS
from nets import CE, MSE, NETS, Attention, case, mlp
from torch import nn

EXACT = METHODS[:2]
MAKERS = {"hessian": hessian, "ggn": ggn, "fisher": empirical_fisher}


def functional_of(net):
    """Loss, outputs and sample losses as functions of one flat vector, with plain torch.func only."""
    theta = net.flatten(net.values)

    def at(f):
        def g(flat):
            with net.evaluation():
                return f(net.unflatten(flat), net.chunks[0])

        return g

    return theta, at(net.loss), at(net.outputs), at(net.sample_losses)


def truth(kind, net):
    """The dense matrix by differentiating twice, or from dense Jacobians."""
    theta, loss, outputs, samples = functional_of(net)
    if kind == "hessian":
        return torch.autograd.functional.hessian(loss, theta)
    if kind == "fisher":
        G = torch.autograd.functional.jacobian(samples, theta)
        return G.T @ G / net.samples
    J = torch.autograd.functional.jacobian(outputs, theta).reshape(-1, net.size)
    z = outputs(theta).detach()
    outer = torch.autograd.functional.hessian(
        lambda out: net.loss_function(out.reshape(z.shape), net.chunks[0].data[1]), z.reshape(-1)
    )
    return J.T @ outer @ J


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", NETS)
def test_every_method_gives_the_exact_matrix(name, kind, method):
    model, loss, batch = case(name)
    A = MAKERS[kind](model, loss, batch, method=method)
    dense = truth(kind, A.net)
    tolerance = 1e-10 if method in EXACT else 1e-6
    assert float((A.matrix() - dense).abs().max()) <= tolerance * max(1.0, float(dense.abs().max()))
    assert A.products == A.shape[0]


@pytest.mark.parametrize("kind", MAKERS)
def test_vectors_blocks_dicts_arrays_and_scipy_are_one_operator(kind):
    model, loss, batch = case("mlp")
    A = MAKERS[kind](model, loss, batch, block=3)
    rng = torch.Generator().manual_seed(41017)
    V = torch.randn(7, A.shape[0], generator=rng, dtype=torch.float64)
    one_by_one = torch.stack([A(v) for v in V])
    torch.testing.assert_close(A(V), one_by_one, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(A(V[:6].reshape(2, 3, -1)), one_by_one[:6].reshape(2, 3, -1), rtol=1e-12, atol=1e-12)
    as_dict = A({n: v.clone() for n, v in A.net.unflatten(V).items()})
    assert {n: tuple(v.shape) for n, v in as_dict.items()} == {n: (7, *p.shape) for n, p in model.named_parameters()}
    torch.testing.assert_close(A.net.flatten(as_dict), one_by_one, rtol=1e-12, atol=1e-12)
    assert isinstance(A(V.numpy()), np.ndarray)
    np.testing.assert_allclose(A.matmat(V.numpy().T), one_by_one.numpy().T, rtol=1e-12, atol=1e-12)
    assert A(V.float()).dtype == torch.float32


def test_ggn_is_positive_and_equals_the_hessian_of_a_linear_model():
    model = nn.Linear(4, 3).double()
    _, _, batch = case("mlp")
    torch.testing.assert_close(
        ggn(model, CE, batch).matrix(), hessian(model, CE, batch).matrix(), rtol=1e-10, atol=1e-12
    )
    model, loss, batch = case("conv")
    assert float(torch.linalg.eigvalsh(ggn(model, loss, batch).matrix())[0]) > -1e-12


def test_mean_squared_error_falls_back_to_a_method_that_works():
    model, loss, batch = case("mlp", MSE)
    H = hessian(model, loss, batch)
    torch.testing.assert_close(H.matrix(), truth("hessian", H.net), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("keep", [False, True])
def test_micro_batches_add_up_to_the_batch(kind, reduction, keep):
    model, _, batch = case("mlp")

    def loss(out, y):
        return CE(out, y, reduction=reduction)

    whole = MAKERS[kind](model, loss, batch, reduction=reduction)
    parts = MAKERS[kind](model, loss, batch, reduction=reduction, micro_batch=5, keep_graph=keep)
    assert [c.samples for c in parts.net.chunks] == [5, 5, 2]
    torch.testing.assert_close(parts.matrix(), whole.matrix(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(parts.gradient(), whole.gradient(), rtol=1e-10, atol=1e-12)
    v = torch.ones(whole.shape[0], dtype=torch.float64)
    alone = [parts.chunk_product(c, v) * c.weight for c in parts.net.chunks]
    torch.testing.assert_close(sum(alone), whole(v), rtol=1e-10, atol=1e-12)


def test_gradient_is_that_of_the_loss():
    model, loss, batch = case("attention")
    loss(model(batch[0]), batch[1]).backward()
    torch.testing.assert_close(
        hessian(model, loss, batch).gradient(), torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    )


def test_fused_attention_has_no_double_backward_of_its_own():
    model, loss, batch = case("attention")
    assert isinstance(model, Attention)
    out = loss(model(batch[0]), batch[1])
    grads = torch.autograd.grad(out, list(model.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match=r"not implemented|does not require grad"):
        torch.autograd.grad(sum((g * g).sum() for g in grads), list(model.parameters()))


def test_nothing_of_the_model_changes_and_the_operator_is_frozen():
    model, loss, batch = case("batchnorm")
    model[1].eval()
    flags = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    A = hessian(model, loss, batch, dropout="fixed", method="double-backward", keep_graph=False)
    dense = A.matrix()
    assert flags == [m.training for m in model.modules()]
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm1d))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
        model[1].running_mean.add_(1.0)
    torch.testing.assert_close(A.matrix(), dense, rtol=0, atol=0)


def test_batchnorm_and_dropout_policies_differ_and_are_recorded():
    model, loss, batch = case("batchnorm")
    made = {
        (norm, drop): hessian(model, loss, batch, batchnorm=norm, dropout=drop, dropout_seed=7)
        for norm in ("batch", "running")
        for drop in ("off", "fixed")
    }
    dense = [A.matrix() for A in made.values()]
    for i, a in enumerate(dense):
        assert all(float((a - b).abs().max()) > 1e-6 for b in dense[:i])
    for (norm, drop), A in made.items():
        state = A.state_dict()
        assert (state["batchnorm"], state["dropout"], state["method"]) == (norm, drop, A.method)
    masks = [hessian(model, loss, batch, dropout="fixed", dropout_seed=s).matrix() for s in (7, 7, 8)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.allclose(masks[0], masks[2])


def test_micro_batches_of_batchnorm_need_a_decision():
    model, loss, batch = case("batchnorm")
    with pytest.raises(ValueError, match="ghost"):
        hessian(model, loss, batch, micro_batch=4)
    ghost = hessian(model, loss, batch, micro_batch=4, batchnorm="ghost")
    running = hessian(model, loss, batch, micro_batch=4, batchnorm="running")
    whole = hessian(model, loss, batch, batchnorm="running")
    torch.testing.assert_close(running.matrix(), whole.matrix(), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(ghost.matrix(), whole.matrix())


def test_method_is_measured_once_per_model_and_can_be_fixed(monkeypatch):
    model, loss, batch = case("mlp")
    first = hessian(model, loss, batch)
    assert set(first.seconds) == set(EXACT)
    assert first.method == min(first.seconds, key=first.seconds.get)
    monkeypatch.setattr("krylearn.optim.curvature.operator.measure_methods", None)  # a second measurement would fail
    assert hessian(model, loss, batch).method == first.method
    assert hessian(model, loss, batch, method="finite-differences").method == "finite-differences"


def test_differences_where_nothing_exact_works():
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * (1 - x.tanh() ** 2)

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = mlp().double()

        def forward(self, x):
            return self.a[2](Opaque.apply(self.a[0](x)))

    model, loss, batch = case("mlp")
    fused = Fused()
    fused.a.load_state_dict(model.state_dict())
    H = hessian(fused, loss, batch)
    assert (H.method, H.seconds) == ("finite-differences", {})
    torch.testing.assert_close(H.matrix(), hessian(model, loss, batch).matrix(), rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch.compile's own
def test_wrappers_of_compilation_are_taken_off():
    model, loss, batch = case("mlp")
    dense = hessian(model, loss, batch).matrix()
    torch.testing.assert_close(hessian(torch.compile(model), loss, batch).matrix(), dense)
    in_place = case("mlp")[0]
    in_place.compile()
    torch.testing.assert_close(hessian(in_place, loss, batch).matrix(), dense)
    assert in_place._compiled_call_impl is not None


def test_a_model_that_returns_its_loss():
    model, loss, batch = case("mlp")

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x, y):
            return loss(self.net(x), y)

    torch.testing.assert_close(hessian(Whole(), None, batch).matrix(), hessian(model, loss, batch).matrix())
    with pytest.raises(ValueError, match="splits loss and model"):
        ggn(Whole(), None, batch, method="double-backward")


def test_a_choice_of_parameters_is_the_principal_block():
    model, loss, batch = case("mlp")
    whole = hessian(model, loss, batch).matrix()
    for p in model[0].parameters():
        p.requires_grad_(False)
    torch.testing.assert_close(hessian(model, loss, batch).matrix(), whole[25:, 25:])
    torch.testing.assert_close(hessian(model, loss, batch, parameters=["0.weight"]).matrix(), whole[:20, :20])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "got method='magic'"),
        ({"batchnorm": "x"}, "batchnorm"),
        ({"parameters": ["nope"]}, "nope"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"block": 0}, "block=0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        hessian(*case("mlp"), **options)


def test_wrong_vectors_and_batches_are_named():
    model, loss, batch = case("mlp")
    H = hessian(model, loss, batch)
    with pytest.raises(ValueError, match=r"expected \(..., 43\)"):
        H(torch.ones(5))
    with pytest.raises(ValueError, match="missing"):
        H({"0.weight": torch.ones(5, 4)})
    with pytest.raises(ValueError, match="first dimensions"):
        hessian(model, loss, (batch[0], batch[1][:3]), micro_batch=2)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_preconditioned_hessian_has_adams_eigenvalues(amsgrad):
    model, loss, batch = case("mlp")
    groups = [{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2].parameters(), "lr": 0.005}]
    adam = torch.optim.Adam(groups, eps=1e-3, betas=(0.9, 0.95), amsgrad=amsgrad)
    H = hessian(model, loss, batch)
    with pytest.raises(ValueError, match="at least one step"):
        preconditioned(H, adam)
    for _ in range(3):
        adam.zero_grad()
        loss(model(batch[0]), batch[1]).backward()
        adam.step()
    H = hessian(model, loss, batch)
    A = preconditioned(H, adam)
    key = "max_exp_avg_sq" if amsgrad else "exp_avg_sq"
    P = torch.cat([((adam.state[p][key] / (1 - 0.95**3)).sqrt() + 1e-3).reshape(-1) for p in model.parameters()])
    ratio = torch.cat(
        [torch.full_like(p, 1.0 if n[0] == "0" else 0.25).reshape(-1) for n, p in model.named_parameters()]
    )
    expected = torch.linalg.eigvals((ratio / P)[:, None] * H.matrix()).real.sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(A.matrix()), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(A.matrix(), A.matrix().T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(preconditioned(H, torch.optim.SGD(model.parameters(), lr=0.1)).matrix(), H.matrix())


@pytest.mark.parametrize("name", ["RMSprop", "Adagrad"])
def test_one_step_of_the_optimizer_divides_by_what_we_say(name):
    model, loss, batch = case("mlp")
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, eps=1e-3)
    before = torch.cat([p.detach().clone().reshape(-1) for p in model.parameters()])
    loss(model(batch[0]), batch[1]).backward()
    g = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    optimizer.step()
    after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    H = hessian(model, loss, batch)
    root = preconditioned(H, optimizer).scale
    torch.testing.assert_close(before - after, 0.1 * root**2 * g, rtol=1e-10, atol=1e-12)


def noises(model, loss, batch, group=None):
    H = hessian(model, loss, batch, micro_batch=2, group=group, method="double-backward")
    gradients = gradient_noise_scale(model, loss, batch, micro_batch=2, group=group)
    return (*gradients, *hessian_noise(H, direction=torch.eye(H.shape[0], dtype=torch.float64)[0]))


def _rank(rank, ranks, folder):
    model, loss, (x, y) = case("mlp")
    mine = slice(0, 8) if rank == 0 else slice(8, 12)  # ranks need not hold equally many samples
    group = torch.distributed.group.WORLD
    result = {}
    for kind, make in MAKERS.items():
        A = make(model, loss, (x[mine], y[mine]), group=group)
        result[kind] = (A.samples, A.method, A.matrix(), A.gradient())
    result["spectrum"] = slq(make(model, loss, (x[mine], y[mine]), group=group), steps=6, probes=2).state_dict()
    result["noise"] = noises(model, loss, (x[mine], y[mine]), group)
    torch.save(result, f"{folder}/{rank}.pt")


def test_two_processes_have_the_operator_of_the_whole_batch():
    with tempfile.TemporaryDirectory() as folder:
        run_gloo_ranks(_rank, 2, folder)
        ranks = [torch.load(os.path.join(folder, f"{r}.pt")) for r in range(2)]
    ours, theirs = (Spectrum.from_state_dict(r.pop("spectrum")) for r in ranks)
    assert ranks[0].pop("noise") == ranks[1].pop("noise") == pytest.approx(noises(*case("mlp")), rel=1e-9)
    assert ours.seed == theirs.seed  # one probe for all ranks, though each would have drawn its own
    np.testing.assert_array_equal(ours.nodes, theirs.nodes)
    for kind, make in MAKERS.items():
        whole = make(*case("mlp"))
        assert ranks[0][kind][1] == ranks[1][kind][1]
        for samples, _, dense, g in (ranks[0][kind], ranks[1][kind]):
            assert samples == 12
            torch.testing.assert_close(dense, whole.matrix(), rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(g, whole.gradient(), rtol=1e-10, atol=1e-12)


def test_measurement_leaves_out_what_fails():
    model, loss, batch = case("mlp")
    assert set(measure_methods(FrozenNetwork(model, loss, batch), "hessian")) == set(EXACT)
