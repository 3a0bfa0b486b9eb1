"""The task that tests of the tuner train on, and bases around its parameters."""

import torch
from torch import nn


class Task:
    """A perceptron on seeded data, in batches that hang on the step alone."""

    measure = staticmethod(nn.functional.cross_entropy)

    def __init__(self, scale=1.0, dtype=torch.float32, batchnorm=False):
        generator = torch.Generator().manual_seed(5)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            middle = [nn.BatchNorm1d(16)] if batchnorm else []
            self.model = nn.Sequential(nn.Linear(8, 16), *middle, nn.ReLU(), nn.Linear(16, 4)).to(dtype)
        x = torch.randn(512, 8, generator=generator).to(dtype)
        self.data, self.scale = (x, (x @ torch.randn(8, 4, generator=generator).to(dtype)).argmax(1)), scale

    def loss(self, batch):
        return self.scale * self.measure(self.model(batch[0]), batch[1])

    def batch(self, step, size=32):
        k = step * size % 512
        return self.data[0][k : k + size], self.data[1][k : k + size]

    def weights(self):
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])

    def final(self):
        with torch.no_grad():
            return float(self.loss(self.data)) / self.scale


class Product(nn.Module):
    """Entries of a product of two small factors: a saddle, near which a dozen steps of any lr show nothing."""

    def __init__(self, generator):
        super().__init__()
        self.rows, self.columns = (nn.Parameter(0.1 * torch.randn(n, 4, generator=generator)) for n in (100, 200))

    def forward(self, where):
        return (self.rows[where[:, 0]] * self.columns[where[:, 1]]).sum(1)


class Saddle(Task):
    """The factorisation of a noisy matrix, in batches of its entries that hang on the step alone."""

    measure = staticmethod(nn.functional.mse_loss)

    def __init__(self):
        generator = torch.Generator().manual_seed(7)
        self.model, self.scale = Product(generator), 1.0
        where = torch.stack([torch.randint(n, (512,), generator=generator) for n in (100, 200)], 1)
        with torch.no_grad():
            self.data = where, 100 * Product(generator)(where) + 0.1 * torch.randn(512, generator=generator)


def sgd(task, **options):
    return torch.optim.SGD(task.model.parameters(), **{"lr": 1.0} | options)


def adamw(task, **options):
    return torch.optim.AdamW(task.model.parameters(), **{"lr": 1.0, "weight_decay": 0.0} | options)


def train(task, tuner, start, stop, scheduler=None, loss_fn=None):
    for step in range(start, stop):
        tuner.zero_grad()
        tuner.observe(loss_fn or task.loss, task.batch(step))
        task.loss(task.batch(step)).backward()
        tuner.step()
        if scheduler is not None:
            scheduler.step()


def numbers_of(tuner):
    """All numbers that decisions come from, flat; infinite and absent ones as text, so that they can be compared."""

    def flat(part, name):
        if isinstance(part, dict):
            return {key: value for each in part for key, value in flat(part[each], f"{name}.{each}").items()}
        if isinstance(part, list):
            return {key: value for k, each in enumerate(part) for key, value in flat(each, f"{name}.{k}").items()}
        return {name: part}

    return flat(tuner.tuning.split()[0], "tuner")


BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0),
    "heavy ball": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1.0),
    "rmsprop with momentum": lambda p: torch.optim.RMSprop(p, lr=1.0, momentum=0.9),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1.0),
    "muon": lambda p: torch.optim.Muon([w for w in p if w.ndim == 2], lr=1.0),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1.0),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1.0),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1.0),
}
