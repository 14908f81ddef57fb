"""The measures in the log of a `Trainer`."""

from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .collect import diagnose


class DiagnosticsCallback(TrainerCallback):
    """Logs `diagnose` of a fixed batch after every evaluation, through the trainer and so to all its reporters.

        trainer.add_callback(DiagnosticsCallback(trainer, dict(tokenizer(texts, padding=True, return_tensors="pt"))))

    Args:
        trainer: whose model is measured, and whose log the measures go to (under ``diagnostics/``).
        inputs: a batch of the model's inputs; it is moved to the model's device.
    """

    def __init__(self, trainer: Trainer, inputs: dict[str, torch.Tensor]):
        self.trainer = trainer
        self.inputs = inputs

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure, and log as the trainer logs its own figures."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        inputs = {name: value.to(model.device) for name, value in self.inputs.items()}
        measured = diagnose(model, **inputs)
        if state.is_world_process_zero:
            self.trainer.log({f"diagnostics/{name}": value for name, value in measured.items()})
