"""`TuneFromCurvature` leaves no trace in metrics and hooks, logs the lr in force, tells two tuners' losses apart."""

import pytest
import torch
from krylearn.optim import CurvatureTuner
from torch import nn

pl = pytest.importorskip("lightning.pytorch")
from krylearn.optim.callbacks import TuneFromCurvature  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.samples, self.losses = 0, []

    def update(self, loss, count):
        self.samples += count
        self.losses.append(float(loss.detach()))


class Module(pl.LightningModule):
    def __init__(self, base, schedule=False):
        super().__init__()
        torch.manual_seed(2)
        self.net, self.counter = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)), Counter()
        self.base, self.schedule, self.fired = base, schedule, 0
        self.register_buffer("average", torch.zeros(1))

    def training_step(self, batch, batch_idx):
        x, y = batch["x"], batch.pop("y")
        loss = nn.functional.mse_loss(self.net(x), y)
        self.average = 0.9 * self.average + 0.1 * loss.detach()
        self.counter.update(loss, len(x))
        self.log("loss", loss)
        return {"loss": loss}

    def configure_optimizers(self):
        base = self.base(self.parameters())
        base.register_step_post_hook(lambda *args: setattr(self, "fired", self.fired + 1))
        tuner = CurvatureTuner(base)
        if self.schedule:
            return [tuner], [{"scheduler": torch.optim.lr_scheduler.StepLR(tuner, 5, 0.9), "interval": "step"}]
        return tuner


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(512, 4, generator=generator)
        self.y = self.x.sum(1, keepdim=True).sin()

    def __len__(self):
        return 512

    def __getitem__(self, k):
        return {"x": self.x[k], "y": self.y[k]}


def trainer(tmp_path, *callbacks, **options):
    return pl.Trainer(
        max_epochs=2, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=list(callbacks), log_every_n_steps=1,
        **{"logger": False, "enable_checkpointing": False} | options,
    )  # fmt: skip


BASES = {"sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9), "adamw": lambda p: torch.optim.AdamW(p, lr=1.0)}


@pytest.mark.parametrize("base", BASES)
def test_metrics_buffers_and_hooks_count_every_step_once(tmp_path, base):
    module = Module(BASES[base])
    trainer(tmp_path, TuneFromCurvature()).fit(module, torch.utils.data.DataLoader(Rows(), 32))
    assert module.counter.samples == 2 * 512
    assert len(module.counter.losses) == module.fired == 32
    average = 0.0
    for loss in module.counter.losses:
        average = 0.9 * average + 0.1 * loss
    assert float(module.average) == pytest.approx(average, rel=1e-4)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("first", [True, False])
def test_monitors_log_the_lr_in_force(tmp_path, base, first):
    seen, logged = [], []

    class Steps(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.append(trainer.optimizers[0].lr)

    class Logger(pl.loggers.logger.DummyLogger):
        def log_metrics(self, metrics, step=None):
            logged.extend(value for name, value in metrics.items() if name.startswith("lr-") and "momentum" not in name)

    monitor, tune = pl.callbacks.LearningRateMonitor("step"), TuneFromCurvature(log=False)
    order = (monitor, tune) if first else (tune, monitor)
    module = Module(BASES[base], schedule=True)
    trainer(tmp_path, *order, Steps(), logger=Logger()).fit(module, torch.utils.data.DataLoader(Rows(), 32))
    assert len(seen) == 32
    hold = [k for k in range(14, 32)]  # in the ramp the step itself sets the lr
    assert [logged[k] for k in hold] == pytest.approx([seen[k] for k in hold], rel=1e-6)
    assert module.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.9**6)


class Two(pl.LightningModule):
    """Two losses, two tuners, manual optimization."""

    def __init__(self, indexed):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(3)
        self.one, self.two, self.asked = nn.Linear(4, 1), nn.Linear(4, 1), []
        if indexed:
            self.curvature_step = self.indexed
        else:
            self.curvature_step = lambda batch: (None, self.loss(batch, 0))

    def loss(self, batch, index):
        net = (self.one, self.two)[index]
        return nn.functional.mse_loss(net(batch["x"]), batch["y"] + index)

    def indexed(self, batch, index):
        self.asked.append(index)
        return None, self.loss(batch, index)

    def training_step(self, batch, batch_idx):
        for index, optimizer in enumerate(self.optimizers()):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch, index))
            optimizer.step()

    def configure_optimizers(self):
        return [CurvatureTuner(torch.optim.AdamW(net.parameters(), lr=1.0)) for net in (self.one, self.two)]


def test_two_tuners_see_each_their_own_loss(tmp_path):
    module = Two(indexed=True)
    trainer(tmp_path, TuneFromCurvature()).fit(module, torch.utils.data.DataLoader(Rows(), 32))
    assert {row["event"] for each in module.trainer.optimizers for row in each.history} >= {"start", "settled"}
    first, second = (each.history[0]["loss"] for each in module.trainer.optimizers)
    assert first != second


def test_two_tuners_with_one_loss_are_refused(tmp_path):
    with pytest.raises(ValueError, match="curvature_step"):
        trainer(tmp_path, TuneFromCurvature()).fit(Two(indexed=False), torch.utils.data.DataLoader(Rows(), 32))
