"""`NoiseScaleMonitor` compares gradients parameter by parameter, whichever have one at a step."""

import pytest
import torch
from torch import nn

pl = pytest.importorskip("lightning.pytorch")
from krylearn.optim.callbacks import NoiseScaleMonitor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class LayerDrop(pl.LightningModule):
    """A block is skipped now and then, another is thawed in the middle."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.block, self.late = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.late.weight.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        if batch_idx == 9:
            self.late.weight.requires_grad_(True)
        h = self.first(batch[0]).relu()
        h = h if batch_idx % 3 == 0 else self.block(h)
        return (self.late(h) - batch[1]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_parameters_without_a_gradient_now_and_then_are_no_error(tmp_path, accumulate):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(256, 4, generator=generator)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)), 8)
    monitor = NoiseScaleMonitor()
    pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[monitor], accumulate_grad_batches=accumulate,
    ).fit(LayerDrop(), loader)  # fmt: skip
    assert monitor.noise.state_dict()["updates"] > 5
    assert monitor.scale > 0
