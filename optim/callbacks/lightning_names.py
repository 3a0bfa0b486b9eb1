"""Lightning's names under either root: `lightning.pytorch`, or `pytorch_lightning` where only that is installed.

The two are separate class trees: callbacks belong to Trainers of the same root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
    except ImportError:
        try:
            from pytorch_lightning import Callback, LightningModule, Trainer
        except ImportError as error:
            raise ImportError('the callbacks need Lightning: pip install "krylearn[train]"') from error

__all__ = ["Callback", "LightningModule", "Trainer"]
