import math

import pytest
import torch
from krylearn.optim import Change, ScalingWarning, scale_hyperparameters
from krylearn.optim.callbacks import NoiseScaleMonitor, ScaleWithBatchSize, SpectrumLogger
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from nets import CE
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*mid-epoch.*"),
    pytest.mark.filterwarnings("ignore:.*Experiment logs directory.*"),
]


class Net(LightningModule):
    """A small classifier; automatic or manual optimization, any torch optimizer, cosine schedule."""

    def __init__(self, batch_size=8, *, manual=False, make=torch.optim.SGD, schedule=True):
        super().__init__()
        self.batch_size, self.make, self.schedule = batch_size, make, schedule
        self.automatic_optimization = not manual
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(17011)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.lrs = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = CE(self(batch[0]), batch[1])
        self.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self):
        optimizer = self.make(self.parameters(), lr=0.01)
        if not self.schedule:
            return optimizer
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 64), "interval": "step"}
        ]

    def train_dataloader(self):
        rng = torch.Generator().manual_seed(17021)
        x = torch.randn(64, 4, generator=rng)
        return DataLoader(
            TensorDataset(x, (x @ torch.randn(4, 3, generator=rng)).argmax(1)), batch_size=self.batch_size
        )


def trainer(tmp_path, callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saves = any(isinstance(c, ModelCheckpoint) for c in callbacks)
    where = {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": tmp_path, "enable_checkpointing": saves}
    return Trainer(callbacks=callbacks, **{**quiet, **where, **options})


def double(facts):
    return Change(lr=facts.ratio, valid=True)


@pytest.mark.parametrize(("manual", "accumulate", "factor"), [(False, 1, 1), (False, 2, 2), (True, 1, 1)])
def test_lr_follows_the_effective_batch_size(tmp_path, manual, accumulate, factor):
    net = Net(manual=manual)
    scale = ScaleWithBatchSize(4, rule=double, schedules="steps")
    trainer(tmp_path, [scale], accumulate_grad_batches=accumulate).fit(net)
    plain = Net(manual=manual)
    trainer(tmp_path, [], accumulate_grad_batches=accumulate).fit(plain)
    assert net.lrs == pytest.approx([2 * factor * lr for lr in plain.lrs])  # also what the schedule makes of it


def test_lr_follows_the_batch_size_finder(tmp_path):
    net = Net(2)
    finder = BatchSizeFinder(mode="power", max_trials=2, steps_per_trial=1)
    scale = ScaleWithBatchSize(rule=double)
    trainer(tmp_path, [finder, scale]).fit(net)
    assert net.batch_size > 2
    assert scale.tuned_for == net.batch_size
    assert net.lrs[-len(net.train_dataloader())] == pytest.approx(0.01 * net.batch_size / 2)


def test_lr_follows_accumulation_within_a_run(tmp_path):
    net = Net(schedule=False)
    callbacks = [ScaleWithBatchSize(rule=double), GradientAccumulationScheduler({0: 1, 1: 4})]
    trainer(tmp_path, callbacks, max_epochs=2).fit(net)
    assert net.lrs == pytest.approx([0.01] * 8 + [0.04] * 8)


def test_resuming_scales_from_what_is_in_the_checkpoint_and_once_only(tmp_path):
    def run(batch_size, path=None, epochs=1):
        net = Net(batch_size, schedule=False)
        t = trainer(tmp_path, [ScaleWithBatchSize(4, rule=double)], max_epochs=epochs)
        t.fit(net, ckpt_path=path)
        t.save_checkpoint(tmp_path / "last.ckpt")
        return net.lrs[-1]

    assert run(8) == pytest.approx(0.02)
    assert run(8, tmp_path / "last.ckpt", 2) == pytest.approx(0.02)  # same size: not scaled again
    assert run(16, tmp_path / "last.ckpt", 3) == pytest.approx(0.04)  # other loader: from 8, not from 4


def test_the_monitor_beside_it_is_asked_for_the_noise_scale(tmp_path):
    monitor = NoiseScaleMonitor()
    monitor.noise.update(1, 18.0, 4, 6.0)  # B_n = 8
    net = Net(schedule=False)
    trainer(tmp_path, [monitor, ScaleWithBatchSize(4)], max_steps=1).fit(net)
    expected = scale_hyperparameters(torch.optim.SGD(net.parameters(), lr=1), old_batch=4, new_batch=8, noise_scale=8)
    assert net.lrs[0] == pytest.approx(0.01 * expected.lr)
    with pytest.warns(ScalingWarning, match="not known to be valid"):
        trainer(tmp_path, [ScaleWithBatchSize(4)], max_steps=1).fit(Net())


def gradient(net, rows):
    x, y = net.train_dataloader().dataset.tensors
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(CE(net(x[rows]), y[rows]), list(net.parameters()))])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_noise_scale_from_accumulated_micro_batches(tmp_path, precision):
    net, monitor = Net(4, schedule=False), NoiseScaleMonitor()
    parts = [gradient(net, slice(4 * i, 4 * i + 4)) for i in range(4)]
    small = sum(float(g.square().sum()) for g in parts[:3]) / 3  # the last one is not seen alone on several devices
    big = float((sum(parts) / 4).square().sum())
    options = {"precision": precision}
    if precision == "16-mixed":  # on a CPU Lightning wants its plugin named, and its scaler
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        options = {"plugins": [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]}
    trainer(tmp_path, [monitor], accumulate_grad_batches=4, max_steps=1, **options).fit(net)
    tolerance = 1e-4 if precision == "32-true" else 0.05
    assert monitor.noise.trace == pytest.approx((small - big) / (1 / 4 - 1 / 16), rel=tolerance, abs=tolerance)
    assert monitor.noise.signal == pytest.approx((16 * big - 4 * small) / 12, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("manual", [False, True])
def test_noise_scale_from_consecutive_steps_and_where_it_is_logged(tmp_path, manual):
    net, monitor = (
        Net(8, manual=manual, make=lambda p, lr: torch.optim.SGD(p, lr=1e-9), schedule=False),
        NoiseScaleMonitor(),
    )
    one, two = (gradient(net, slice(8 * i, 8 * i + 8)) for i in range(2))
    t = trainer(tmp_path, [monitor], max_steps=2)
    t.fit(net)
    small, big = float(one.square().sum() + two.square().sum()) / 2, float(((one + two) / 2).square().sum())
    assert monitor.noise.trace == pytest.approx((small - big) / (1 / 8 - 1 / 16), rel=1e-4)
    if math.isfinite(monitor.scale):
        assert float(t.logged_metrics["noise_scale"]) == pytest.approx(monitor.scale, rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_monitor_is_the_uninterrupted_one(tmp_path, accumulate):
    whole = NoiseScaleMonitor()
    trainer(tmp_path, [whole], max_epochs=2, accumulate_grad_batches=accumulate).fit(Net())
    first, second = NoiseScaleMonitor(), NoiseScaleMonitor()
    t = trainer(tmp_path, [first], max_epochs=1, accumulate_grad_batches=accumulate)
    t.fit(Net())
    t.save_checkpoint(tmp_path / "half.ckpt")
    t = trainer(tmp_path, [second], max_epochs=2, accumulate_grad_batches=accumulate)
    t.fit(Net(), ckpt_path=tmp_path / "half.ckpt")
    assert second.noise.updates == whole.noise.updates > first.noise.updates
    assert (second.noise.trace, second.noise.signal) == pytest.approx((whole.noise.trace, whole.noise.signal))


@pytest.mark.parametrize("manual", [False, True])
def test_spectra_are_logged_drawn_and_resumed(tmp_path, manual):
    def make():
        return SpectrumLogger(CE, every=3, steps=8, kind="hessian")

    def fit(callback, epochs, path=None):
        t = trainer(tmp_path, [callback], max_epochs=epochs, logger=CSVLogger(tmp_path, "run", version=0))
        net = Net(manual=manual)
        t.fit(net, ckpt_path=path)
        t.save_checkpoint(tmp_path / "spectra.ckpt")
        return t, net

    whole, half, rest = make(), make(), make()
    fit(whole, 2)
    t, net = fit(half, 1)
    _, resumed = fit(rest, 2, tmp_path / "spectra.ckpt")
    assert [row[0] for row in whole.history] == [3, 6, 9, 12, 15]
    assert rest.options["method"] == half.options["method"]
    for ours, theirs in zip(rest.history, whole.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert float(t.logged_metrics["sharpness"]) == pytest.approx(half.history[-1][1], rel=1e-5)
    assert len(list((tmp_path / "run" / "version_0" / "spectra").glob("*.png"))) == 5
    assert all(p.requires_grad for p in resumed.parameters())
    assert net.training


def test_spectra_on_a_fixed_batch_do_not_depend_on_accumulation_or_touch_training(tmp_path):
    batch = (torch.randn(6, 4, generator=torch.Generator().manual_seed(17029)), torch.tensor([0, 1, 2, 0, 1, 2]))
    spectra = SpectrumLogger(CE, every=2, batch=batch, kind="ggn", steps=5, figures=False)
    net, plain = Net(), Net()
    trainer(tmp_path, [spectra], accumulate_grad_batches=2).fit(net)
    trainer(tmp_path, [], accumulate_grad_batches=2).fit(plain)
    assert [row[0] for row in spectra.history] == [2, 4]
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="kind='magic'"):
        SpectrumLogger(CE, kind="magic")


class Parts(Net):
    """Batches of three parts, two losses, a metric that training_step counts."""

    def __init__(self, **options):
        super().__init__(**options)
        self.drop, self.logged = nn.Dropout(0.5), 0

    def training_step(self, batch, batch_idx):
        x, y, weight = batch
        loss = (weight * nn.functional.cross_entropy(self.drop(self(x)), y, reduction="none")).mean()
        self.log("loss", loss)
        return {"loss": loss}

    def train_dataloader(self):
        x, y = super().train_dataloader().dataset.tensors
        return DataLoader(TensorDataset(x, y, torch.linspace(0.5, 1.5, len(x))), batch_size=self.batch_size)


def weighted(outputs, targets):
    return (targets[1] * nn.functional.cross_entropy(outputs, targets[0], reduction="none")).mean()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_spectra_need_no_loss_where_the_module_has_one(tmp_path, precision):
    own, told = SpectrumLogger(every=2, steps=6, figures=False), SpectrumLogger(
        weighted, every=4, steps=6, figures=False, batch=lambda batch: (batch[0], batch[1:])
    )  # fmt: skip
    t = trainer(tmp_path, [own, told], max_steps=4, precision=precision)
    t.fit(Parts())
    assert [row[0] for row in own.history] == [2, 4]
    assert own.history[1] == pytest.approx(told.history[0], rel=1e-3)
    assert "loss" in t.logged_metrics


def test_spectra_say_what_loss_or_batch_they_need(tmp_path):
    with pytest.raises(ValueError, match="kind='ggn' without a loss"):
        SpectrumLogger(kind="ggn")
    with pytest.raises(ValueError, match="manual optimization training_step takes steps"):
        trainer(tmp_path, [SpectrumLogger(every=1)], max_steps=1).fit(Net(manual=True))
    with pytest.raises(ValueError, match=r"batch of 3 parts; expected \(inputs, targets\)"):
        trainer(tmp_path, [SpectrumLogger(weighted, every=1)], max_steps=1).fit(Parts())

    net = Net(manual=True)
    net.curvature_step = lambda batch: (None, CE(net(batch[0]), batch[1]))
    spectra = SpectrumLogger(every=2, steps=4, figures=False)
    trainer(tmp_path, [spectra], max_steps=2).fit(net)
    assert len(spectra.history) == 1


class Report(Callback):
    """Each rank writes what its monitor found."""

    def __init__(self, monitor, folder):
        self.monitor, self.folder = monitor, folder

    def on_train_end(self, trainer, pl_module):
        facts = (self.monitor.noise.trace, self.monitor.noise.signal, trainer.callbacks[0].tuned_for, pl_module.lrs[-1])
        torch.save(facts, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_devices_count_and_see_the_noise_of_both(tmp_path):
    net, monitor = Net(4, schedule=False), NoiseScaleMonitor()
    parts = [gradient(net, slice(4 * i, 4 * i + 4)) for i in range(4)]
    callbacks = [ScaleWithBatchSize(4, rule=double), monitor, Report(monitor, tmp_path)]
    options = {"strategy": "ddp_spawn", "devices": 2, "accumulate_grad_batches": 2, "max_steps": 1}
    trainer(tmp_path, callbacks, use_distributed_sampler=False, **options).fit(net)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    # without a sampler both ranks see the same samples: what is seen before the last micro-batch is part 0 twice
    small, big = float(parts[0].square().sum()), float(((parts[0] + parts[1]) / 2).square().sum())
    for trace, signal, tuned_for, lr in ranks:
        assert trace == pytest.approx((small - big) / (1 / 4 - 1 / 16), rel=1e-4)
        assert signal == pytest.approx((16 * big - 4 * small) / 12, rel=1e-4, abs=1e-4)
        assert (tuned_for, lr) == (16, pytest.approx(0.04))


def test_a_picture_of_the_spectrum_is_whole_or_a_warning(tmp_path):
    from krylearn.optim.callbacks.spectrum import _save
    from matplotlib.figure import Figure

    place = tmp_path / "spectra" / "step-00000002.png"
    _save(Figure(), place)
    assert place.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in place.parent.iterdir()] == [place.name]
    with pytest.warns(UserWarning, match="was not written"):
        _save(Figure(), place / "below-a-file" / "a.png")
