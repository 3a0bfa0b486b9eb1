"""What a task of the batch-size study is: data, a network, and how many samples a training sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """A classification task: data, network and how long one trains.

    Attributes
    ----------
    inputs, targets : training data, (N, ...) and (N,);  held_inputs, held_targets : held-out data
    network : makes an untrained network (seed it with `made`);  samples : that a training sees, whatever its batch size
    """

    name: str
    inputs: Tensor
    targets: Tensor
    held_inputs: Tensor
    held_targets: Tensor
    network: Callable[[], nn.Module]
    samples: int

    def made(self, seed: int) -> nn.Module:
        """Return the network with the initial parameters of this seed; torch's global generator is left as it was.

        Examples
        --------
        >>> from .tasks import small_task
        >>> sum(p.numel() for p in small_task("waves").made(1).parameters())
        2314
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network()

    def order(self, seed: int, batch_size: int) -> Tensor:
        """Return which samples the steps see, (steps, batch_size): shuffled epochs one after another, nothing dropped.

        Examples
        --------
        >>> from .tasks import small_task
        >>> small_task("waves").order(1, 1024).shape
        torch.Size([256, 1024])
        """
        rng, count = torch.Generator().manual_seed(seed), len(self.inputs)
        epochs = [torch.randperm(count, generator=rng) for _ in range(-(-self.samples // count))]
        return torch.cat(epochs)[: self.samples].reshape(-1, batch_size)
