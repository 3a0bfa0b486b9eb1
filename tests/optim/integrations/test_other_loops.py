"""The loops that torch's, Lightning's and Hugging Face's users write, with the tuner's lines, on text that we ship."""

import gzip
import warnings
from pathlib import Path

import pytest
import torch
from krylearn.optim import CurvatureTuner
from krylearn.optim.integrations import tune_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

TEXT = Path(__file__).resolve().parents[3] / "bench" / "studies" / "tuner" / "data" / "topics.txt.gz"
LETTERS, CONTEXT, ROWS = 64, 12, 1536


@pytest.fixture(scope="module")
def windows():
    text = gzip.decompress(TEXT.read_bytes()).decode()
    common = sorted(set(text), key=lambda letter: (-text.count(letter), letter))[: LETTERS - 1]
    number = {letter: k for k, letter in enumerate(common)}
    codes = torch.tensor([number.get(letter, LETTERS - 1) for letter in text[: 8 * ROWS + CONTEXT]])
    return codes.unfold(0, CONTEXT + 1, 8)[:ROWS]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(LETTERS, 8), nn.Flatten(), nn.Linear(8 * CONTEXT, 32), nn.ReLU(), nn.Linear(32, LETTERS)
    )


def mean_loss(model, data):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(data[:, :-1]), data[:, -1]))


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_a_plain_loop_over_a_data_loader(windows, base):
    model, criterion = network(), nn.CrossEntropyLoss()
    before = mean_loss(model, windows)
    loader = DataLoader(TensorDataset(windows[:, :-1], windows[:, -1]), batch_size=32, shuffle=True)
    optimizer = CurvatureTuner(base(model.parameters(), lr=1.0), total_steps=4 * len(loader))
    for _ in range(4):
        for inputs, targets in loader:
            optimizer.zero_grad()
            optimizer.observe(lambda b: criterion(model(b[0]), b[1]), (inputs, targets))
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
    assert mean_loss(model, windows) < 0.75 * before


@pytest.mark.filterwarnings("ignore")
def test_lightnings_trainer(windows):
    pl = pytest.importorskip("lightning.pytorch")
    from krylearn.optim.callbacks import TuneFromCurvature

    class Next(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def train_dataloader(self):
            return DataLoader(TensorDataset(windows[:, :-1], windows[:, -1]), batch_size=32, shuffle=True)

        def configure_optimizers(self):
            optimizer = CurvatureTuner(torch.optim.AdamW(self.parameters()))
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 192)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module = Next()
    before = mean_loss(module.model, windows)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_epochs=4, accelerator="cpu", callbacks=[TuneFromCurvature()], **quiet).fit(module)
    assert mean_loss(module.model, windows) < 0.75 * before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_hugging_faces_trainer(windows, tmp_path, accumulate):
    transformers = pytest.importorskip("transformers", reason="pip install transformers accelerate")
    pytest.importorskip("accelerate", reason="pip install transformers accelerate")
    torch.manual_seed(0)
    sizes = {"n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": LETTERS}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    rows = [{"input_ids": row, "labels": row} for row in windows]
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=32, num_train_epochs=4, gradient_accumulation_steps=accumulate,
        lr_scheduler_type="cosine", use_cpu=True, report_to=[], logging_steps=10_000, save_strategy="epoch",
        disable_tqdm=True,
    )  # fmt: skip
    tuner = CurvatureTuner(torch.optim.AdamW(model.parameters()))
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, optimizers=(tuner, None))
    batch = windows[:256]
    with torch.no_grad():
        before = float(model(input_ids=batch, labels=batch).loss)
    tune_trainer(trainer).train()
    model.eval()
    with torch.no_grad():
        after = float(model(input_ids=batch, labels=batch).loss)
    assert tuner.tuning.phase == "hold"
    assert after < 0.85 * before
    saved = sorted(tmp_path.glob("checkpoint-*/optimizer.pt"))
    assert "krylearn" in torch.load(saved[-1], weights_only=True)


@pytest.mark.filterwarnings("ignore")
def test_accelerates_loop(windows):
    accelerate = pytest.importorskip("accelerate", reason="pip install accelerate")
    accelerator, model = accelerate.Accelerator(cpu=True), network()
    before = mean_loss(model, windows)
    loader = DataLoader(TensorDataset(windows[:, :-1], windows[:, -1]), batch_size=32, shuffle=True)
    tuner = CurvatureTuner(torch.optim.AdamW(model.parameters()), total_steps=4 * len(loader))
    prepared, optimizer, loader = accelerator.prepare(model, tuner, loader)
    for _ in range(4):
        for inputs, targets in loader:
            optimizer.zero_grad()
            tuner.observe(lambda b: nn.functional.cross_entropy(model(b[0]), b[1]), (inputs, targets))
            accelerator.backward(nn.functional.cross_entropy(prepared(inputs), targets))
            optimizer.step()
    assert mean_loss(model, windows) < 0.75 * before


def test_a_trainer_without_a_tuner_says_what_is_missing():
    class Trainer:
        optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)

        def training_step(self, model, inputs):
            """Never reached."""

    with pytest.raises(TypeError, match="expected a CurvatureTuner"), warnings.catch_warnings():
        tune_trainer(Trainer()).training_step(None, None)
