"""`krylearn spectrum` on real checkpoints of real Trainers, as a user calls it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from krylearn.bench.cli import main, parser
from krylearn.bench.optim.checkpoint_spectra import found, load_module, run_spectrum
from krylearn.optim import hessian

FILE = """
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def data():
    rng = torch.Generator().manual_seed(70_001)
    return TensorDataset(torch.randn(40, 4, generator=rng), torch.randint(3, (40,), generator=rng))


class Net(LightningModule):
    def __init__(self, width=5, extra=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return {"loss": loss}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WithData(Net):
    def train_dataloader(self):
        return DataLoader(data(), batch_size=16)


class Manual(WithData):
    def training_step(self, batch, batch_idx):
        self.optimizers().step()


class Needs(WithData):
    def __init__(self, depth):
        super().__init__()


class Data(LightningDataModule):
    def __init__(self, size=16):
        super().__init__()
        self.size = size

    def train_dataloader(self):
        return DataLoader(data(), batch_size=self.size)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's file and checkpoints of 0 and 6 steps, made by a Trainer in its own process."""
    where = tmp_path_factory.mktemp("user")
    (where / "net.py").write_text(FILE)
    code = """
from lightning.pytorch import Trainer
from net import WithData
import torch
torch.manual_seed(70_003)
trainer = Trainer(max_steps=0, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
net = WithData(7)
trainer.fit(net); trainer.save_checkpoint("begin.ckpt")
trainer = Trainer(max_steps=6, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
trainer.fit(net); trainer.save_checkpoint("end.ckpt")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return where


def command(folder, *more, checkpoints=("end.ckpt",), cls="WithData"):
    paths = [str(folder / name) for name in checkpoints]
    return ["spectrum", *paths, "--module", f"{folder / 'net.py'}:{cls}", "-o", str(folder / "s.png"), *more]


@pytest.mark.parametrize("loss", [(), ("--loss", "torch.nn.functional:cross_entropy")])
@pytest.mark.parametrize("micro", [(), ("--micro-batch", "8")])
def test_edges_are_those_of_the_loss_on_the_first_samples(folder, loss, micro):
    options = parser().parse_args(command(folder, *loss, *micro, "--samples", "24", "--steps", "59", "--probes", "1"))
    (spectrum,) = run_spectrum(options)
    module, step = load_module(options, folder / "end.ckpt")
    assert step == 6
    x, y = found(f"{folder / 'net.py'}:data")().tensors
    H = hessian(module, torch.nn.functional.cross_entropy, (x[:24], y[:24]))
    exact = torch.linalg.eigvalsh(H.matrix().double()).numpy()
    assert spectrum.size == len(exact) == 59
    assert [spectrum.min, spectrum.max] == pytest.approx([exact[0], exact[-1]], rel=1e-4)


def test_checkpoints_through_training_share_samples_and_leave_a_picture_and_records(folder, capsys):
    more = ("--steps", "12", "--records", str(folder / "r.jsonl"))
    assert main(command(folder, *more, checkpoints=("begin.ckpt", "end.ckpt"))) == 0
    assert (folder / "s.png").read_bytes()[:4] == b"\x89PNG"
    lines = [json.loads(line) for line in (folder / "r.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 6]
    for line in lines:
        assert np.sum(line["weights"]) == pytest.approx(1)
        assert line["edges"]["top"]["low"] <= max(line["nodes"]) <= line["edges"]["top"]["high"]
    assert "begin.ckpt" in capsys.readouterr().out


def test_a_data_module_and_ggn(folder):
    more = ("--data", f"{folder / 'net.py'}:Data", "--data-arguments", '{"size": 5}', "--steps", "8")
    more += ("--kind", "ggn", "--loss", "torch.nn.functional:cross_entropy")
    (spectrum,) = run_spectrum(parser().parse_args(command(folder, *more, cls="Net")))
    assert spectrum.facts["samples"] == 40
    assert spectrum.min > -1e-4


@pytest.mark.parametrize(
    ("cls", "more", "message"),
    [
        ("Nothing", (), "has no Nothing; it has Data, Manual, Needs, Net, WithData"),
        ("data", (), "is no LightningModule"),
        ("Net", (), "pass --data WHERE:CLASS"),
        ("Manual", (), "pass --loss"),
        ("WithData", ("--kind", "ggn"), "pass --loss"),
        ("WithData", ("--arguments", "{"), "is not JSON"),
        ("WithData", ("--arguments", "[1]"), "expected an object"),
        ("WithData", ("--arguments", '{"width": 9}'), "does not load as"),
        ("Needs", (), "pass what the class is made with"),
        ("WithData", ("--loss", "torch.nn.functional"), "expected package.module:Name"),
        ("WithData", ("--loss", "no_such_package:f"), "cannot import 'no_such_package'"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_remedy(folder, cls, more, message, capsys):
    assert main(command(folder, *more, cls=cls)) == 2
    assert message in capsys.readouterr().err


def test_files_that_are_absent_or_none(folder, capsys):
    assert main(command(folder, checkpoints=("none.ckpt",))) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    (folder / "bad.ckpt").write_bytes(b"not a checkpoint")
    assert main(command(folder, checkpoints=("bad.ckpt",))) == 2
    assert "bad.ckpt" in capsys.readouterr().err
    assert main(["spectrum", "x.ckpt", "--module", "nowhere.py:Net"]) == 2
    assert "there is no file nowhere.py" in capsys.readouterr().err


def test_a_checkpoint_with_pickled_objects_wants_trust(folder, capsys):
    raw = torch.load(folder / "end.ckpt", weights_only=True)
    raw["hyper_parameters"]["extra"] = subprocess.CompletedProcess("x", 0)
    torch.save(raw, folder / "pickled.ckpt")
    assert main(command(folder, checkpoints=("pickled.ckpt",))) == 2
    assert "pass --trust" in capsys.readouterr().err
    assert main(command(folder, "--trust", "--steps", "4", checkpoints=("pickled.ckpt",))) == 0
