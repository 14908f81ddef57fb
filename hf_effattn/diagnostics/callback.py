"""A callback that adds the measures to the log of a `Trainer`."""

from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .collect import diagnose


class DiagnosticsCallback(TrainerCallback):
    """Logs `diagnose` of a fixed batch after every evaluation; all reporters of the trainer get the measures.

        trainer.add_callback(DiagnosticsCallback(trainer, dict(tokenizer(texts, padding=True, return_tensors="pt"))))

    Args:
        trainer: the trainer whose model is measured. Its log gets the measures, under ``diagnostics/``.
        inputs: a batch of inputs for the model; it is moved to the device of the model.
    """

    def __init__(self, trainer: Trainer, inputs: dict[str, torch.Tensor]):
        self.trainer = trainer
        self.inputs = inputs

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the model, and log the measures as the trainer logs its own numbers."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        inputs = {name: value.to(model.device) for name, value in self.inputs.items()}
        measured = diagnose(model, **inputs)
        if state.is_world_process_zero:
            self.trainer.log({f"diagnostics/{name}": value for name, value in measured.items()})
