"""A LightningModule as a network whose forward pass is its training loss, for curvature without a `loss`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn


class TrainingLoss(nn.Module):
    """A module whose output is the loss of `curvature_step(batch)`, if there is one, else of `training_step`.

    Logging is muted. `curvature_step` returns (outputs, loss) and is needed where training_step optimizes by itself.

    Parameters
    ----------
    module : LightningModule, or what has such a training_step
    is_sequence : whether batches are tuples or lists, even of one part;  batch_idx : what training_step is told

    Examples
    --------
    >>> import torch
    >>> class Half(nn.Module):
    ...     def training_step(self, batch, batch_idx):
    ...         return {"loss": batch[0].mean() / 2}
    >>> TrainingLoss(Half(), is_sequence=True)(torch.ones(3))
    tensor(0.5000)
    """

    def __init__(self, module: Any, *, is_sequence: bool, batch_idx: int = 0) -> None:
        super().__init__()
        self.module, self.is_sequence, self.batch_idx = module, is_sequence, batch_idx

    def forward(self, *batch: Any, **named: Any) -> Any:
        """Return the loss of a batch, given in parts."""
        from .tuner import muted  # needs Lightning, which whoever has such a module has

        whole = named or (batch if self.is_sequence else batch[0])
        with muted(self.module):
            step = getattr(self.module, "curvature_step", None)
            if step is not None:
                return step(whole)[1]
            takes_index = len(inspect.signature(self.module.training_step).parameters) > 1
            out = self.module.training_step(*((whole, self.batch_idx) if takes_index else (whole,)))
        loss = out.get("loss") if isinstance(out, Mapping) else out
        if loss is None:
            raise ValueError("training_step returned no loss; return it, or pass loss=callable(outputs, targets)")
        return loss
