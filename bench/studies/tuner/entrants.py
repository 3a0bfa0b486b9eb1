"""Who takes part in the training comparison: our tuner, the published learner, and the rivals with their defaults.

Ours is charged: every forward pass, gradient, product and step made in vain is taken off its steps. The rivals' extra
work (the hundred steps of `lr_find`) is not charged, and neither are the grids, which cost thirty runs.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from krylearn.optim.tuner.optimizer import CurvatureTuner

from .runs import Entrant, Outcome, fit, outcome, plain
from .workloads import Task, Workload, schedule

# what the database calls the tuner as it is now; a change of its behaviour gets a new name, and old runs stay
TUNER_VERSION = "3"
BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda parameters, lr=1.0: torch.optim.SGD(parameters, lr=lr),
    "AdamW": lambda parameters, lr=1.0: torch.optim.AdamW(parameters, lr=lr),
}


def tuned(
    base: str, *, lr: float = 1.0, policy: Any = "edge", scale: float = 1.0, batch: int | None = None, **options: Any
) -> Callable[[Workload, int], Outcome]:
    """Return a run of the tuner with its defaults around a base with any lr; `scale` multiplies the loss.

    The schedule advances with gradients and extra work together, and ends when both have used the run's gradients up.

    Examples
    --------
    >>> from .workloads import WORKLOADS
    >>> out = tuned("SGD", lr=1e-3)(WORKLOADS["quadratic"], 0)
    >>> out.steps + out.extra <= 500 + 1
    True
    """

    def run(work: Workload, seed: int) -> Outcome:
        task = work.task(seed)
        if scale != 1.0:
            task = task._replace(loss=lambda out, y: scale * work.loss(out, y))
        tuner = CurvatureTuner(BASES[base](list(task.model.parameters()), lr=lr), policy, **options)
        steps = charged_fit(work, task, tuner, seed, batch)
        decided = [row for row in tuner.history if row["event"] in ("settled", "rescue", "doubled", "raised")]
        more = {"trace": [f"{row['event']} {row['step']} {row['lr']:.3g}" for row in decided]}
        out = outcome(task, steps, tuner.spent, more)
        return out._replace(val=out.val / scale, train=out.train / scale)

    return run


def charged_fit(work: Workload, task: Task, tuner: CurvatureTuner, seed: int, batch: int | None = None) -> int:
    """Train until steps and extra work have used the run's gradients up; returns the steps made.

    Examples
    --------
    >>> from .workloads import WORKLOADS
    >>> work = WORKLOADS["quadratic"]
    >>> task = work.task(0)
    >>> tuner = CurvatureTuner(torch.optim.SGD(task.model.parameters(), lr=1.0))
    >>> 450 < charged_fit(work, task, tuner, 0) < 500
    True
    """

    def progress(step: int) -> float:
        return schedule(min(step + tuner.spent, work.steps), work.steps)

    scheduler = torch.optim.lr_scheduler.LambdaLR(tuner, progress)
    batches = work.batches(task, seed, batch)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the tuner had to undo is in its history
        torch.manual_seed(seed)  # dropout
        step = 0
        while step + tuner.spent < work.steps:
            x, y = next(batches)
            tuner.zero_grad()
            tuner.observe(lambda pair: task.loss(task.model(pair[0]), pair[1]), (x, y))
            loss = task.loss(task.model(x), y)
            loss.backward()
            tuner.step()
            scheduler.step()
            step += 1
    return step


def ours() -> Iterator[Entrant]:
    """Yield the tuner with its defaults around both bases.

    Examples
    --------
    >>> [entrant.method for entrant in ours()]
    ['tuner SGD', 'tuner AdamW']
    """
    for base in BASES:
        yield Entrant(f"tuner {base}", TUNER_VERSION, tuned(base))


def rivals() -> Iterator[Entrant]:
    """Yield the rivals that are installed, each with its default lr, and the published learner.

    Examples
    --------
    >>> "published learner" in [entrant.method for entrant in rivals()]
    True
    """
    if importlib.util.find_spec("prodigyopt"):
        yield Entrant("Prodigy", "lr=1", plain(_prodigy))
    if importlib.util.find_spec("dadaptation"):
        yield Entrant("D-Adaptation", "Adam lr=1", plain(_dadaptation))
    if importlib.util.find_spec("schedulefree"):
        yield Entrant("Schedule-Free AdamW", "default lr", _schedule_free("AdamWScheduleFree"))
        yield Entrant("Schedule-Free SGD", "default lr", _schedule_free("SGDScheduleFree"))
    if importlib.util.find_spec("lightning"):
        yield Entrant("lr_find + OneCycle", "SGD momentum=0.9", _one_cycle)
    yield Entrant("published learner", "once", tuned("SGD", policy="granziol", every=10**9))


def of_this_version(lines: list[dict[str, Any]], suffix: str = "") -> list[dict[str, Any]]:
    """Select the runs of the tuner as it ships.

    Examples
    --------
    >>> of_this_version([{"c": "1", "seed": 1}, {"c": TUNER_VERSION, "seed": 1}])
    [{'c': '3', 'seed': 1}]
    """
    return [line for line in lines if line["c"] == TUNER_VERSION + suffix]


def absent() -> list[str]:
    """Return the rivals that are not installed.

    Examples
    --------
    >>> set(absent()) <= {"prodigyopt", "dadaptation", "schedulefree", "lightning"}
    True
    """
    names = ("prodigyopt", "dadaptation", "schedulefree", "lightning")
    return [name for name in names if not importlib.util.find_spec(name)]


def _prodigy(parameters: list) -> torch.optim.Optimizer:
    from prodigyopt import Prodigy

    return Prodigy(parameters, lr=1.0)


def _dadaptation(parameters: list) -> torch.optim.Optimizer:
    from dadaptation import DAdaptAdam

    return DAdaptAdam(parameters, lr=1.0)


def _schedule_free(name: str) -> Callable[[Workload, int], Outcome]:
    """Constant lr, as the method wants; BatchNorm statistics are taken anew at the averaged weights, as advised."""

    def run(work: Workload, seed: int) -> Outcome:
        import schedulefree

        task = work.task(seed)
        optimizer = getattr(schedulefree, name)(task.model.parameters())
        optimizer.train()
        steps = fit(work, task, optimizer, seed, steps=work.steps, scheduler=None)
        optimizer.eval()
        if any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in task.model.modules()):
            with torch.no_grad():
                for _, (x, _y) in zip(range(50), work.batches(task, seed), strict=False):
                    task.model(x)
        return outcome(task, steps)

    return run


def _one_cycle(work: Workload, seed: int) -> Outcome:
    """Lightning's lr_find with its defaults, then OneCycle up to what it suggests; momentum as OneCycle cycles it."""
    task = work.task(seed)
    lr = _lr_find(work, seed)
    if lr is None:
        return Outcome(math.nan, math.nan, 0)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=work.steps + 1)
    return outcome(task, fit(work, task, optimizer, seed, steps=work.steps, scheduler=scheduler), 0, {"lr": lr})


def _lr_find(work: Workload, seed: int) -> float | None:
    import tempfile

    import lightning.pytorch as pl
    from lightning.pytorch.tuner import Tuner

    task = work.task(seed)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = task.model, 1e-3

        def training_step(self, batch: Any, index: int) -> Any:
            return task.loss(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    generator = torch.Generator().manual_seed(1000 + seed)
    data = torch.utils.data.TensorDataset(*task.train)
    loader = torch.utils.data.DataLoader(data, work.batch, shuffle=True, drop_last=True, generator=generator)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        trainer = pl.Trainer(
            max_epochs=1000, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder, accelerator="cpu",
        )  # fmt: skip
        found = Tuner(trainer).lr_find(Module(), loader, update_attr=False)
    return None if found is None else found.suggestion()
