"""Lightning's conventions that concern callbacks (the list L1-L19 of the conventions reference), on real Trainers."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from krylearn.optim import ScalingWarning
from krylearn.optim.callbacks import NoiseScaleMonitor, ScaleWithBatchSize, SpectrumLogger
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.tuner import Tuner
from nets import CE
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from tests.optim.callbacks.test_callbacks import Net, double, pytestmark, trainer  # noqa: F401


def three():
    spectra = SpectrumLogger(CE, every=2, steps=4, figures=False)
    return [NoiseScaleMonitor(decay=0.5), ScaleWithBatchSize(4, rule=double), spectra]


class Returns(Net):
    """configure_optimizers returns whatever it is told."""

    def __init__(self, form):
        super().__init__(manual=form == "tuple of dicts")
        self.form = form

    def configure_optimizers(self):
        sgd = SGD(self.net[0].parameters(), lr=0.01)
        if self.form == "optimizer":
            return sgd
        if self.form == "list":
            return [sgd]
        cosine = CosineAnnealingLR(sgd, 100)
        if self.form == "two lists":
            return [sgd], [cosine]
        if self.form == "dict":
            return {"optimizer": sgd, "lr_scheduler": cosine, "monitor": "loss"}
        if self.form == "plateau":
            return {"optimizer": sgd, "lr_scheduler": {"scheduler": ReduceLROnPlateau(sgd), "monitor": "loss"}}
        other = torch.optim.AdamW(self.net[2].parameters(), lr=0.02)
        return (
            {"optimizer": sgd, "lr_scheduler": {"scheduler": cosine, "interval": "step"}},
            {"optimizer": other, "lr_scheduler": LambdaLR(other, lambda _: 0.5)},
        )

    def training_step(self, batch, batch_idx):
        loss = CE(self(batch[0]), batch[1])
        self.log("loss", loss)
        if self.automatic_optimization:
            return loss
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return None


@pytest.mark.parametrize("form", ["optimizer", "list", "two lists", "dict", "plateau", "tuple of dicts"])
def test_every_form_of_configure_optimizers(tmp_path, form):
    callbacks = three()
    t = trainer(tmp_path, callbacks, max_epochs=1)
    t.fit(Returns(form))
    bases = [g.get("initial_lr", g["lr"]) for o in t.optimizers for g in o.param_groups]
    assert bases == pytest.approx([0.02, 0.04] if form == "tuple of dicts" else [0.02])  # 4 -> 8: twice
    for config in t.lr_scheduler_configs:
        if hasattr(config.scheduler, "base_lrs"):
            assert config.scheduler.base_lrs == pytest.approx(
                [2 * 0.01 if config.scheduler.optimizer is t.optimizers[0] else 0.04]
            )
    assert [row[0] for row in callbacks[2].history]  # global_step counts the steps of all optimizers
    assert callbacks[0].noise.updates > 0


class Overriding(Net):
    """A module with hooks of its own, each doing what Lightning would."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.step(closure=optimizer_closure)

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        optimizer.zero_grad(set_to_none=False)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val=gradient_clip_val, gradient_clip_algorithm="norm")

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_hooks_of_the_module_and_clipping_change_nothing(tmp_path, accumulate):
    found = []
    for cls, clip in ((Net, None), (Overriding, 1e-8)):  # gradients are read before they are clipped
        callbacks, net = three(), cls()
        options = {"gradient_clip_val": clip, "accumulate_grad_batches": accumulate, "max_steps": 2}
        trainer(tmp_path, callbacks, **options).fit(net)
        found.append((net.lrs[:2], callbacks[0].noise.trace, callbacks[2].history[0][:2]))
    (lrs, trace, _), (other_lrs, other_trace, history) = found
    assert lrs == pytest.approx(other_lrs)
    if accumulate > 1:  # without, the second gradient is taken where the first step led
        assert trace == pytest.approx(other_trace, rel=0.05)
    assert history[0] == 2
    assert history[1] > 0


def precision_options(precision):
    if precision != "16-mixed":
        return {"precision": precision}
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # on a CPU Lightning wants its plugin named, and its scaler
    return {"plugins": [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]}


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_mixed_precision_resumes_as_if_it_had_not_stopped(tmp_path, precision, accumulate):
    def run(callbacks, epochs, path=None):
        net = Net()
        t = trainer(
            tmp_path, callbacks, max_epochs=epochs, accumulate_grad_batches=accumulate, **precision_options(precision)
        )
        t.fit(net, ckpt_path=path)
        t.save_checkpoint(tmp_path / "half.ckpt")
        return net.lrs

    whole, half, rest = three(), three(), three()
    lrs = run(whole, 2)
    run(half, 1)
    assert run(rest, 2, tmp_path / "half.ckpt") == pytest.approx(lrs[8:])
    assert rest[0].noise.updates == whole[0].noise.updates > half[0].noise.updates
    assert (rest[0].noise.trace, rest[0].noise.signal) == pytest.approx((whole[0].noise.trace, whole[0].noise.signal))
    assert [row[0] for row in rest[2].history] == [row[0] for row in whole[2].history]
    for ours, theirs in zip(rest[2].history, whole[2].history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert rest[1].state_dict() == whole[1].state_dict() == {"batch_size": 8 * accumulate}


@pytest.mark.parametrize("manual", [False, True])
def test_manual_and_automatic_runs_resume(tmp_path, manual):
    def run(callbacks, epochs, path=None):
        t = trainer(tmp_path, callbacks, max_epochs=epochs)
        t.fit(Net(manual=manual), ckpt_path=path)
        t.save_checkpoint(tmp_path / "half.ckpt")

    whole, rest = three(), three()
    run(whole, 2)
    run(three(), 1)
    run(rest, 2, tmp_path / "half.ckpt")
    assert rest[0].noise.state_dict() == pytest.approx(whole[0].noise.state_dict())
    assert [row[0] for row in rest[2].history] == [row[0] for row in whole[2].history]
    assert rest[1].state_dict() == whole[1].state_dict()


@pytest.mark.parametrize("first", [True, False])
def test_the_monitor_of_learning_rates_sees_scaled_ones_wherever_it_stands(tmp_path, first):
    ours, theirs = ScaleWithBatchSize(8, rule=double), LearningRateMonitor(logging_interval="step")
    accumulate = GradientAccumulationScheduler({0: 1, 1: 4})
    callbacks = [accumulate, theirs, ours] if first else [accumulate, ours, theirs]
    logger = CSVLogger(tmp_path, "lr", version=int(first))
    t = trainer(tmp_path, callbacks, max_epochs=2, logger=logger, log_every_n_steps=1)
    t.fit(Net(schedule=False))
    logged = _csv(logger)
    assert logged == pytest.approx([0.01] * 8 + [0.04] * (len(logged) - 8))
    assert len(logged) > 8


def _csv(logger):
    rows = [line.split(",") for line in Path(logger.experiment.metrics_file_path).read_text().splitlines()]
    column = rows[0].index("lr-SGD")
    return [float(row[column]) for row in rows[1:] if row[column]]


class WithLr(Net):
    """A module whose lr an lr finder may write."""

    def __init__(self):
        super().__init__(schedule=False)
        self.lr = 0.01

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=self.lr)


def test_an_lr_finder_round_trip_leaves_the_callbacks_alone_and_its_lr_is_the_base(tmp_path):
    callbacks, net = three(), WithLr()
    t = trainer(tmp_path, callbacks, max_epochs=1)
    Tuner(t).lr_find(net, num_training=12, min_lr=1e-4, max_lr=1e-1)
    before = [c.state_dict() for c in three()]
    assert [c.state_dict() for c in callbacks] == before  # trial steps are not ours
    assert t.callbacks[: len(callbacks)] == callbacks or set(callbacks) <= set(t.callbacks)
    found = net.lr
    net.lrs.clear()
    t.fit(net)
    assert net.lrs == pytest.approx([2 * found] * 8)


def test_an_lr_finder_among_the_callbacks(tmp_path):
    callbacks, net = three(), WithLr()
    finder = LearningRateFinder(num_training_steps=12, min_lr=1e-4, max_lr=1e-1)
    trainer(tmp_path, [finder, *callbacks], max_epochs=1).fit(net)
    assert net.lrs[-8:] == pytest.approx([2 * net.lr] * 8)
    assert [row[0] for row in callbacks[2].history] == [2, 4, 6, 8]


def test_a_new_loader_each_epoch_with_another_batch_size(tmp_path):
    class Grow(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.batch_size *= 2

    net = Net(schedule=False)
    callbacks = [ScaleWithBatchSize(rule=double), Grow()]
    trainer(tmp_path, callbacks, max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(net)
    assert net.lrs == pytest.approx([0.01] * 8 + [0.02] * 4 + [0.04] * 2)


def test_accumulation_changed_on_resume(tmp_path):
    def run(accumulate, epochs, path=None):
        net = Net(schedule=False)
        t = trainer(tmp_path, three(), max_epochs=epochs, accumulate_grad_batches=accumulate)
        t.fit(net, ckpt_path=path)
        t.save_checkpoint(tmp_path / "a.ckpt")
        return net.lrs[-1], t.callbacks[1].tuned_for

    assert run(1, 1) == (pytest.approx(0.02), 8)
    assert run(4, 2, tmp_path / "a.ckpt") == (pytest.approx(0.08), 32)
    assert run(2, 3, tmp_path / "a.ckpt") == (pytest.approx(0.04), 16)


class Scheduled(Net):
    """A module with a scheduler of one's own."""

    def __init__(self, make, interval="step", **options):
        super().__init__(**options)
        self.make_scheduler, self.interval = make, interval

    def configure_optimizers(self):
        sgd = SGD(self.parameters(), lr=0.01, momentum=0.5)
        return [sgd], [{"scheduler": self.make_scheduler(self, sgd), "interval": self.interval}]


def warm_cosine(_, sgd):
    return SequentialLR(sgd, [LinearLR(sgd, 0.1, total_iters=8), CosineAnnealingLR(sgd, 24)], [8])


def one_cycle(net, sgd):
    return OneCycleLR(sgd, 0.1, total_steps=net.trainer.estimated_stepping_batches)


def lrs_of(tmp_path, net, *callbacks, path=None, **options):
    t = trainer(tmp_path, list(callbacks), **options)
    t.fit(net, ckpt_path=path)
    t.save_checkpoint(tmp_path / "lrs.ckpt")
    return net.lrs, t


@pytest.mark.filterwarnings("ignore:.*call of `lr_scheduler.step.*before `optimizer.step")
def test_warmup_and_schedule_keep_their_samples(tmp_path):
    was, _ = lrs_of(tmp_path, Scheduled(warm_cosine, batch_size=4), max_epochs=2)
    now, t = lrs_of(tmp_path, Scheduled(warm_cosine, batch_size=8), ScaleWithBatchSize(4, rule=double), max_epochs=2)
    assert now == pytest.approx([2 * lr for lr in was[::2]])
    assert t.lr_scheduler_configs[0].scheduler._milestones == [4]


@pytest.mark.filterwarnings("ignore:.*call of `lr_scheduler.step.*before `optimizer.step")
def test_schedules_follow_accumulation_and_resume_as_if_nothing_had_stopped(tmp_path):
    def run(epochs, path=None):
        callbacks = [GradientAccumulationScheduler({0: 1, 1: 2}), ScaleWithBatchSize(rule=double)]
        return lrs_of(tmp_path, Scheduled(warm_cosine, batch_size=4), *callbacks, path=path, max_epochs=epochs)[0]

    whole = run(2)
    run(1)
    assert run(2, tmp_path / "lrs.ckpt") == pytest.approx(whole[16:])
    plain, _ = lrs_of(tmp_path, Scheduled(warm_cosine, batch_size=4), max_epochs=2)
    assert whole[:16] == pytest.approx(plain[:16])
    assert whole[16::2] == pytest.approx([2 * lr for lr in plain[16::2]])  # two micro-batches per step


@pytest.mark.parametrize(("make", "interval", "options"), [
    (one_cycle, "step", {}),
    (lambda _, sgd: CosineAnnealingLR(sgd, 5), "step", {"max_steps": 5}),
    (lambda _, sgd: CosineAnnealingLR(sgd, 5), "epoch", {}),
])  # fmt: skip
def test_schedules_made_for_this_run_and_those_that_count_epochs_stay(tmp_path, make, interval, options):
    was, _ = lrs_of(tmp_path, Scheduled(make, interval), **options)
    now, _ = lrs_of(tmp_path, Scheduled(make, interval), ScaleWithBatchSize(4, rule=double), **options)
    assert now == pytest.approx([2 * lr for lr in was])


def test_schedules_that_cannot_be_converted_are_named_once_and_the_rest_is_scaled(tmp_path):
    net = Scheduled(lambda _, sgd: LambdaLR(sgd, lambda k: 0.9**k))
    with pytest.warns(ScalingWarning, match="LambdaLR counts steps") as caught:
        lrs_of(tmp_path, net, ScaleWithBatchSize(4, rule=double))
    assert sum("LambdaLR" in str(w.message) for w in caught) == 1
    assert net.lrs == pytest.approx([0.02 * 0.9**k for k in range(8)])
    with pytest.raises(ValueError, match="schedules='epochs'"):
        ScaleWithBatchSize(schedules="epochs")


def test_several_of_a_kind_keep_their_own_state(tmp_path):
    def make():
        return [
            SpectrumLogger(CE, every=2, steps=3, figures=False),
            SpectrumLogger(CE, every=4, steps=3, figures=False),
        ]

    one, two = make(), make()
    t = trainer(tmp_path, one, max_epochs=1)
    t.fit(Net())
    t.save_checkpoint(tmp_path / "s.ckpt")
    assert one[0].state_key != one[1].state_key
    trainer(tmp_path, two, max_epochs=1).fit(Net(), ckpt_path=tmp_path / "s.ckpt")
    assert [len(c.history) for c in two] == [4, 2]


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")  # other samples, the same steps
def test_a_run_resumes_from_the_middle_of_an_epoch(tmp_path):
    def run(callbacks, path=None):
        # global_step counts the four steps of an epoch; the checkpoint of step 3 is within the first
        saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
        net = Net()
        trainer(tmp_path, [*callbacks, saves], max_epochs=2, accumulate_grad_batches=2).fit(net, ckpt_path=path)
        return net.lrs

    whole, rest = three(), three()
    lrs = run(whole)
    assert run(rest, tmp_path / "step=3.ckpt") == pytest.approx(lrs[-10:])
    assert rest[0].noise.updates == whole[0].noise.updates == 8
    assert [row[0] for row in rest[2].history] == [row[0] for row in whole[2].history] == [2, 4, 6, 8]
    assert rest[1].state_dict() == whole[1].state_dict()


class Sampled(Net):
    """Batches come from a batch sampler, which another callback makes larger."""

    def train_dataloader(self):
        data = super().train_dataloader().dataset
        return DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), self.batch_size, drop_last=False))


class GrowSampler(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.train_dataloader.batch_sampler.batch_size *= 2


def test_a_batch_sampler_that_grows_is_followed(tmp_path):
    net, scale = Sampled(schedule=False), ScaleWithBatchSize(rule=double)
    trainer(tmp_path, [scale, GrowSampler()], max_epochs=2).fit(net)
    assert scale.tuned_for == 16
    assert net.lrs[:8] + net.lrs[-1:] == pytest.approx([0.01] * 8 + [0.02])


class Two(Net):
    """A dict of loaders."""

    def train_dataloader(self):
        return {"a": Net(4).train_dataloader(), "b": Net(4).train_dataloader()}

    def training_step(self, batch, batch_idx):
        return CE(self(batch["a"][0]), batch["a"][1])


class Data(LightningDataModule):
    batch_size = 8

    def train_dataloader(self):
        return Net(self.batch_size).train_dataloader()


def test_batch_sizes_may_be_those_of_a_data_module_or_come_from_a_function(tmp_path):
    net, scale = Net(schedule=False), ScaleWithBatchSize(rule=double)
    del net.batch_size
    trainer(tmp_path, [scale], accumulate_grad_batches=2, max_steps=1).fit(net, datamodule=Data())
    assert (scale.tuned_for, net.lrs[0]) == (16, pytest.approx(0.01))
    with pytest.raises(ValueError, match="dict does not tell its batch size; pass batch_size="):
        trainer(tmp_path, [ScaleWithBatchSize(4, rule=double)], max_steps=1).fit(Two(schedule=False))
    scale = ScaleWithBatchSize(4, rule=double, batch_size=lambda trainer: 8)
    t = trainer(tmp_path, [scale], max_steps=1)
    t.fit(Two(schedule=False))
    assert t.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.02)


def test_checkpoints_are_plain_and_load_without_unpickling(tmp_path):
    t = trainer(tmp_path, three(), max_epochs=1)
    t.fit(Net())
    t.save_checkpoint(tmp_path / "p.ckpt")
    saved = torch.load(tmp_path / "p.ckpt", weights_only=True)["callbacks"]
    assert sum(any(name in key for name in ("Noise", "Scale", "Spectrum")) for key in saved) == 3


def test_callbacks_import_under_the_other_root_of_lightning(monkeypatch):
    import lightning.pytorch as present

    monkeypatch.setitem(sys.modules, "pytorch_lightning", present)
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    names = importlib.import_module("krylearn.optim.callbacks.lightning_names")
    assert importlib.reload(names).Callback is present.Callback
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(ImportError, match="krylearn\\[train\\]"):
        importlib.reload(names)
    monkeypatch.undo()
    importlib.reload(names)


class Note(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / "two.ckpt")


@pytest.mark.slow
def test_the_number_of_devices_changed_on_resume(tmp_path):
    callbacks = [ScaleWithBatchSize(8, rule=double), NoiseScaleMonitor(), Note(tmp_path)]
    trainer(tmp_path, callbacks, strategy="ddp_spawn", devices=2, max_epochs=1).fit(Net(schedule=False))
    net, scale = Net(schedule=False), ScaleWithBatchSize(8, rule=double)
    t = trainer(tmp_path, [scale, NoiseScaleMonitor()], max_epochs=2)
    t.fit(net, ckpt_path=tmp_path / "two.ckpt")
    assert scale.tuned_for == 8
    assert net.lrs == pytest.approx([0.01] * 8)  # 16 samples per step, lr 0.02 in the checkpoint: halved
