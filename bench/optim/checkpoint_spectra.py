"""`krylearn spectrum`: from Lightning checkpoints to spectra, a picture and a table of edges.

A module is named as `package.module:Class` or `file.py:Class`. Its loss is what `training_step` returns on a batch,
logging silenced, or `loss(module(inputs), targets)` with a loss of one's own. All checkpoints are measured on the same
samples with the same probes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from krylearn.optim import Spectrum, ggn, hessian, slq
from krylearn.optim.callbacks.training_loss import TrainingLoss
from krylearn.solvers.files import append_json_lines
from torch.utils._pytree import tree_flatten, tree_map

from ..measure.console import UsageError, console, table
from ..measure.record import plain
from ..show.pictures import check_figure, save_figure

HEADER = ("checkpoint", "step", "smallest eigenvalue", "largest eigenvalue", "trace", "products")


def found(where: str) -> Any:
    """Import `package.module:Name` or `file.py:Name`.

    Examples
    --------
    >>> found("torch.nn.functional:mse_loss") is torch.nn.functional.mse_loss
    True
    """
    place, colon, name = where.rpartition(":")
    if not colon or not name.isidentifier():
        raise UsageError(f"got '{where}'; expected package.module:Name or file.py:Name")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ImportError as error:
        raise UsageError(f"cannot import '{place}': {error}; expected a module on the path, or a file.py") from error
    if not hasattr(module, name):
        raise UsageError(f"'{place}' has no {name}; it has {', '.join(sorted(_classes(module))) or 'no classes'}")
    return getattr(module, name)


def _file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"krylearn_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle and dataclasses look for it
    sys.path.insert(0, str(path.parent.resolve()))  # files beside it can be imported, as if it were run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _classes(module: Any) -> list[str]:
    found_here = (value for value in vars(module).values() if inspect.isclass(value))
    return [value.__name__ for value in found_here if value.__module__ == module.__name__]


def _arguments(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{option} {text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f'{option} is {text}; expected an object, such as {{"width": 8}}')
    return value


def load_module(options: argparse.Namespace, path: Path) -> tuple[Any, int]:
    """Return the module of a checkpoint, and the optimizer step it was saved at.

    Raises
    ------
    UsageError : no such file or class, a checkpoint that is none of this class or that would have to be unpickled
    """
    cls = found(options.module)
    if not hasattr(cls, "load_from_checkpoint"):
        raise UsageError(f"{options.module} is no LightningModule; expected a class with load_from_checkpoint")
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}")
    arguments, careful = _arguments(options.arguments, "--arguments"), not options.trust
    try:
        raw = torch.load(path, map_location="cpu", weights_only=careful)
        module = cls.load_from_checkpoint(path, map_location="cpu", weights_only=careful, **arguments)
    except pickle.UnpicklingError as error:
        remedy = "if you made it yourself, pass --trust"
        raise UsageError(f"{path} holds more than tensors and plain values, or is no checkpoint; {remedy}") from error
    except Exception as error:  # half a file, or a class that is made otherwise, may raise anything
        remedy = "; pass what the class is made with as --arguments JSON" if isinstance(error, TypeError) else ""
        raise UsageError(f"{path} does not load as {options.module}: {error}{remedy}") from error
    return module.to(options.device), int(raw.get("global_step", 0))


def curvature_batch(options: argparse.Namespace, module: Any) -> Any:
    """Return so many samples of the first training batches, joined, on the device.

    Raises
    ------
    UsageError : there is no train_dataloader, or it gives no tensors
    """
    torch.manual_seed(options.seed)
    owner = module
    if options.data:
        owner = found(options.data)(**_arguments(options.data_arguments, "--data-arguments"))
    try:
        owner.prepare_data()
        owner.setup("fit")
        loader = owner.train_dataloader()
    except Exception as error:
        kind = type(owner).__name__
        remedy = "pass --data WHERE:CLASS of a LightningDataModule"
        raise UsageError(f"{kind} gives no training data outside a Trainer ({error}); {remedy}") from error
    parts, count = [], 0
    for batch in loader:
        batch = tuple(batch) if isinstance(batch, list) else batch
        parts.append(batch)
        leaves = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, torch.Tensor) and leaf.dim()]
        if not leaves:
            raise UsageError(f"a training batch is {type(batch).__name__} without tensors; expected tensors of samples")
        count += len(leaves[0])
        if count >= options.samples:
            break
    if not parts:
        raise UsageError("the training data are empty")
    joined = tree_map(lambda *leaves: _joined(leaves, options.samples), *parts)
    return tree_map(lambda leaf: leaf.to(options.device) if isinstance(leaf, torch.Tensor) else leaf, joined)


def _joined(leaves: Sequence[Any], samples: int) -> Any:
    if isinstance(leaves[0], torch.Tensor) and leaves[0].dim():
        return torch.cat(list(leaves))[:samples]
    return leaves[0]


def spectrum_of(options: argparse.Namespace, module: Any, batch: Any) -> Spectrum:
    """Measure one module's spectrum on a batch."""
    loss: Callable | None = found(options.loss) if options.loss else None
    if loss is None and options.kind == "ggn":
        raise UsageError("ggn splits loss and model; pass --loss, as in --loss torch.nn.functional:cross_entropy")
    model = module if loss is not None else TrainingLoss(module, is_sequence=isinstance(batch, tuple))
    make: Callable = ggn if options.kind == "ggn" else hessian
    try:
        A = make(model, loss, batch, micro_batch=options.micro_batch, batchnorm=options.batchnorm)
        return slq(A, steps=options.steps, probes=options.probes, rng=options.seed, progress=None)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        what = "training_step(batch, 0) outside a Trainer" if loss is None else "loss(module(inputs), targets)"
        hint = "; pass --loss if training_step needs its Trainer or optimizes by itself" if loss is None else ""
        raise UsageError(f"no curvature of {what}: {error}{hint}") from error


def run_spectrum(options: argparse.Namespace) -> list[Spectrum]:
    """Measure all checkpoints, write the picture, print the edges.

    Examples
    --------
    >>> from krylearn.bench.cli import parser
    >>> run_spectrum(parser().parse_args(["spectrum", "last.ckpt", "--module", "net.py:Net"]))    # doctest: +SKIP
    """
    from krylearn.optim.spectra.plots import draw_spectra

    check_figure(options.output)
    made: list[tuple[int, Spectrum]] = []
    lines, batch = [], None
    for path in options.checkpoints:
        module, step = load_module(options, path)
        batch = curvature_batch(options, module) if batch is None else batch
        spectrum = spectrum_of(options, module, batch)
        made.append((step, spectrum))
        edges, trace = spectrum.extremes(), spectrum.trace()
        lines.append([path.name, step, *(_edge(edge) for edge in edges), f"{trace.value:.4g}", spectrum.products])
        if options.records:
            _append(options.records, path, step, spectrum)
    save_figure(draw_spectra(made), options.output, dpi=110)
    facts = f"{made[0][1].facts.get('samples')} samples, {options.kind}; picture: {options.output}"
    console.print(table("spectrum", HEADER, lines, caption=facts))
    return [spectrum for _, spectrum in made]


def _edge(edge: Any) -> str:
    return f"{edge.low:.4g} to {edge.high:.4g}" + ("" if edge.converged else " (not converged)")


def _append(records: Path, path: Path, step: int, spectrum: Spectrum) -> None:
    edges = {name: edge._asdict() for name, edge in spectrum.extremes()._asdict().items()}
    line = {"checkpoint": path.name, "step": step, "parameters": spectrum.size, "seed": spectrum.seed, **spectrum.facts}
    line |= {"edges": edges, "nodes": spectrum.nodes.tolist(), "weights": spectrum.deflated_weights.tolist()}
    append_json_lines(records, [plain(line)])
