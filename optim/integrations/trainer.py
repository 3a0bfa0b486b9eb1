"""Hugging Face's Trainer: let a `CurvatureTuner` look at the loss ahead of every training step."""

from __future__ import annotations

from typing import Any

from ..tuner.optimizer import CurvatureTuner


def tune_trainer(trainer: Any) -> Any:
    """Let the trainer's optimizer, a `CurvatureTuner`, observe the loss of every batch; give the trainer back.

    The loss is the trainer's own `compute_loss` of the plain model. Schedulers, accumulation, mixed precision and
    checkpoints go on as they are. Give the tuner to the trainer as `optimizers=(tuner, None)`.

    Parameters
    ----------
    trainer : transformers.Trainer, or a subclass

    Raises
    ------
    TypeError : its optimizer is no CurvatureTuner, when training begins

    Examples
    --------
    >>> trainer = Trainer(model, arguments, train_dataset=rows, optimizers=(tuner, None))  # doctest: +SKIP
    >>> tune_trainer(trainer).train()  # doctest: +SKIP
    """
    plain_step = trainer.training_step

    def training_step(model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        tuner = trainer.optimizer
        while not isinstance(tuner, CurvatureTuner) and hasattr(tuner, "optimizer"):
            tuner = tuner.optimizer  # accelerate's wrapper
        if not isinstance(tuner, CurvatureTuner):
            raise TypeError(
                f"got the optimizer {type(tuner).__name__}; expected a CurvatureTuner: "
                "Trainer(..., optimizers=(CurvatureTuner(...), None))"
            )
        unwrapped = trainer.accelerator.unwrap_model(model)
        tuner.observe(lambda batch: trainer.compute_loss(unwrapped, batch), trainer._prepare_inputs(inputs))
        return plain_step(model, inputs, *arguments, **options)

    trainer.training_step = training_step
    return trainer
